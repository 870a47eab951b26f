// What Python calls (and shm.c): each function is one parallel region.
#include "kernels.h"

// Working memory of the calling thread, which grows and stays: fresh pages cost more than the work on them.
static void *scratch(long bytes) {
    static _Thread_local void *memory;
    static _Thread_local long size;
    if (bytes > size) {
        free(memory);
        memory = aligned_alloc(64, size = (bytes + 4095) / 4096 * 4096);
    }
    return memory;
}

// Sizes and values that structs.py has too, by their names there; -1: there is none of that name.
EXPORT long mygpt_constant(const char *name) {
#define SIZE(type) {#type, sizeof(type)}
#define VALUE(name) {#name, name}
    static const struct { const char *name; long value; } all[] = {
        SIZE(Matrix), SIZE(Norm), SIZE(AttentionArgs), SIZE(BlockWeights), SIZE(GroupState),
        VALUE(F32), VALUE(BF16), VALUE(INT8), VALUE(FOURBIT), VALUE(SILU), VALUE(GELU_TANH), VALUE(NO_GATE),
        VALUE(NO_TILES), VALUE(BY_UNIT), VALUE(BY_VECTORS), VALUE(MAX_ROWS), VALUE(MAX_DIM), VALUE(MAX_GROUP),
    };
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(all[i].name, name)) return all[i].value;
    return -1;
}

EXPORT int mygpt_tiles_by(void) { return tiles_by(); }

EXPORT int mygpt_has_fourbit(void) { return HAS_FOURBIT; }

EXPORT void mygpt_norm(int threads, const Norm *n, const void *x, long rows, void *y) {
#pragma omp parallel num_threads(threads)
    norm(n, x, rows, y);
}

EXPORT void mygpt_gate(int threads, int type, const void *x, long rows, long width, int activation, void *y) {
#pragma omp parallel num_threads(threads)
    gate(type, x, rows, width, activation, y);
}

// y = x W^T + bias; with an activation W is a gate above what it is for, and y = activation(x G^T) * (x U^T).
EXPORT void mygpt_linear(int threads, const Matrix *m, const void *x, long rows, int activation, void *y) {
    const int tiles = tiles_are_best(m, rows);
    void *memory = tiles ? NULL : scratch(product_scratch(m, rows, activation, threads));
#pragma omp parallel num_threads(threads)
    {
        if (tiles) { // whose memory depends on the threads that there are, which may be fewer than asked for
#pragma omp master
            memory = scratch(product_scratch(m, rows, activation, omp_get_num_threads()));
#pragma omp barrier
        }
        if (activation == NO_GATE) product(m, x, rows, NULL, 0, memory, y);
        else gated_product(m, x, rows, activation, memory, y);
    }
}

EXPORT void mygpt_attention(int threads, const AttentionArgs *a) {
    if (a->tokens == 1) {
        float *memory = scratch(attention_scratch(a));
#pragma omp parallel num_threads(threads)
        attention(a, memory);
        return;
    }
    char *memory;
#pragma omp parallel num_threads(threads)
    {
#pragma omp master
        memory = scratch(attend_many_scratch(a, omp_get_num_threads()));
#pragma omp barrier
        attend_many(a, memory);
    }
}

// y (batch * tokens, width) = the block of x. Of `a`, q, k, v, y and their strides are filled in here.
EXPORT void mygpt_block(int threads, const BlockWeights *w, AttentionArgs *a, const void *x, void *y) {
    char *memory;
#pragma omp parallel num_threads(threads)
    {
#pragma omp master
        memory = scratch(block_scratch(w, a, omp_get_num_threads()));
#pragma omp barrier
        block(w, a, x, memory, y);
    }
}
