// Sums over the ranks of one machine, in memory that they share: a meeting takes a microsecond, not a socket's hundred.
#include "vectors.h"
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#define LINE 64
#define PATIENT 256    // looks at another's count, with pauses, before the core is offered to others
#define LOOKS 16384    // further ones between two questions whether the other is alive

// The first line of each rank; behind all of these each has two buffers, used in turn: who writes to one knows that
// all have read what was in it, for they have all come to the meeting after that.
typedef struct {
    _Atomic uint64_t count; // meetings that this rank has come to
    int64_t process;
} Seat;

static Seat *seat(const Team *t, long rank) { return (Seat *)(t->memory + rank * LINE); }

static char *buffer(const Team *t, long rank, uint64_t count) {
    return t->memory + t->size * LINE + (2 * rank + count % 2) * t->capacity;
}

// Wait for all ranks; what they wrote before is then there to read. One thread of each calls it.
static void meet(Team *t) {
    t->count++;
    atomic_store_explicit(&seat(t, t->rank)->count, t->count, memory_order_release);
    for (long r = 0; r < t->size; r++)
        for (long looks = 0; atomic_load_explicit(&seat(t, r)->count, memory_order_acquire) < t->count; looks++) {
            if (t->lost >= 0) return;
            if (looks < PATIENT) {
#ifdef __x86_64__
                __builtin_ia32_pause();
#endif
                continue;
            }
            if (t->crowded) nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL); // who only yields is soon back
            else sched_yield();
            if (looks % LOOKS == 0 && kill(seat(t, r)->process, 0) && errno == ESRCH) t->lost = r;
        }
}

// y[i] and the next ones, `count` in all. The sum is rounded first, as one of tensors is.
INLINE void store_sum(int type, vec sum, long count, const void *residual, float alpha, long i, void *y) {
    char part[sizeof(vec)];
    store(type, part, 0, sum);
    if (count == LANES) {
        vec s = load(type, part, 0);
        store(type, y, i, residual ? load(type, residual, i) + alpha * s : s);
        return;
    }
    for (long j = 0; j < count; j++) {
        float s = load1(type, part, j);
        store1(type, y, i + j, residual ? load1(type, residual, i + j) + alpha * s : s);
    }
}

// y = residual + alpha * the sum of the ranks' x, or that sum: n numbers each. Called by every thread of a team.
void team_sum(Team *t, int type, const void *x, long n, const void *residual, float alpha, void *y) {
    const long most = t->capacity / size_of(type);
    for (long start = 0; start < n; start += most) {
        const uint64_t count = t->count + 1;
        const long end = n - start < most ? n : start + most;
        long first, last;
        share(end - start, LINE, &first, &last);
        if (last > first)
            memcpy(buffer(t, t->rank, count) + first * size_of(type), at(x, type, start + first),
                   (last - first) * size_of(type));
#pragma omp barrier
#pragma omp single
        meet(t);
        for (long i = first; i < last; i += LANES) {
            vec total = splat(0);
            // Behind the last numbers of a buffer lie older ones, which nobody stores.
            for (long r = 0; r < t->size; r++) total += load(type, buffer(t, r, count), i);
            store_sum(type, total, last - i < LANES ? last - i : LANES, residual, alpha, start + i, y);
        }
    }
}

// Rank 0's y = the ranks' x, one after the other: `bytes` each.
void team_gather(Team *t, const char *x, long bytes, char *y) {
    for (long start = 0; start < bytes; start += t->capacity) {
        const long size = bytes - start < t->capacity ? bytes - start : t->capacity;
        memcpy(buffer(t, t->rank, t->count + 1), x + start, size);
        meet(t);
        for (long r = 0; r < t->size && t->rank == 0; r++)
            memcpy(y + r * bytes + start, buffer(t, r, t->count), size);
    }
}
