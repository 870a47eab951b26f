// Sums over the ranks of one machine, in memory that they share: a meeting takes a microsecond, a socket's a hundred.
#include "kernels.h"
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#define LINE 64
#define SPINS 256   // times that another rank's count is read, with pauses, before the core is offered to others
#define READS 16384 // further reads between two checks whether the other rank is alive

// The first line of each rank. Behind all of these each rank has two buffers, used in turn: a rank that writes to one
// knows that all have read what was in it, for they have all come to the meeting after that.
typedef struct {
    _Atomic uint64_t count; // meetings that this rank has come to
    int64_t process;
} Header;

static Header *header(const GroupState *g, long rank) { return (Header *)(g->memory + rank * LINE); }

static char *buffer(const GroupState *g, long rank, uint64_t count) {
    return g->memory + g->size * LINE + (2 * rank + count % 2) * g->capacity;
}

// Wait for all ranks; what they wrote before is then there to read. One thread of each rank calls it.
static void meet(GroupState *g) {
    g->count++;
    atomic_store_explicit(&header(g, g->rank)->count, g->count, memory_order_release);
    for (long r = 0; r < g->size; r++)
        for (long reads = 0; atomic_load_explicit(&header(g, r)->count, memory_order_acquire) < g->count; reads++) {
            if (g->lost >= 0) return;
            if (reads < SPINS) {
#ifdef __x86_64__
                __builtin_ia32_pause();
#endif
                continue;
            }
            if (g->crowded) nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL); // a thread that yields is soon back
            else sched_yield();
            if (reads % READS == 0 && kill(header(g, r)->process, 0) && errno == ESRCH) g->lost = r;
        }
}

// y = the sum of the ranks' x, n numbers each. Called by every thread of a team.
static void all_reduce(GroupState *g, int type, const void *x, long n, void *y) {
    const long most = g->capacity / size_of(type);
    for (long start = 0; start < n; start += most) {
        const uint64_t count = g->count + 1;
        const long end = n - start < most ? n : start + most;
        long first, last;
        share(end - start, LINE, &first, &last);
        if (last > first)
            memcpy(buffer(g, g->rank, count) + first * size_of(type), at(x, type, start + first),
                   (last - first) * size_of(type));
#pragma omp barrier
#pragma omp single
        meet(g);
        for (long i = first; i < last; i += LANES) {
            char part[sizeof(vec)];
            vec total = splat(0);
            // Behind the last numbers of a buffer lie older ones, which are not stored.
            for (long r = 0; r < g->size; r++) total += load(type, buffer(g, r, count), i);
            if (last - i >= LANES) {
                store(type, y, start + i, total);
                continue;
            }
            store(type, part, 0, total);
            memcpy((void *)at(y, type, start + i), part, (last - i) * size_of(type));
        }
    }
}

EXPORT void mygpt_shm_all_reduce(int threads, GroupState *g, int type, const void *x, long n, void *y) {
#pragma omp parallel num_threads(threads)
    all_reduce(g, type, x, n, y);
}

// Rank 0's y = the ranks' x, one after the other: `bytes` each.
EXPORT void mygpt_shm_gather(GroupState *g, const char *x, long bytes, char *y) {
    for (long start = 0; start < bytes; start += g->capacity) {
        const long size = bytes - start < g->capacity ? bytes - start : g->capacity;
        memcpy(buffer(g, g->rank, g->count + 1), x + start, size);
        meet(g);
        for (long r = 0; r < g->size && g->rank == 0; r++)
            memcpy(y + r * bytes + start, buffer(g, r, g->count), size);
    }
}
