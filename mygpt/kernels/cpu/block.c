// A whole block in one parallel region: spares what Python, torch and the start of a region cost between its parts.
#include "kernels.h"

void norm(const Norm *w, const void *x, long rows, void *y) {
    const long width = w->width, type = w->type;
#pragma omp for
    for (long n = 0; n < rows; n++) {
        const void *xs = at(x, type, n * width);
        void *ys = (void *)at(y, type, n * width);
        vec total = splat(0);
        long i = 0;
        for (; i + LANES <= width; i += LANES) total += load(type, xs, i) * load(type, xs, i);
        float squares = sum(total);
        for (; i < width; i++) squares += load1(type, xs, i) * load1(type, xs, i);
        const float scale = 1 / sqrtf(squares / width + w->eps);
        for (i = 0; i + LANES <= width; i += LANES) {
            vec normed = load(type, xs, i) * scale;
            store(type, ys, i, normed * (load(type, w->weight, i) + w->offset));
        }
        for (; i < width; i++) {
            float normed = load1(type, xs, i) * scale;
            store1(type, ys, i, normed * (load1(type, w->weight, i) + w->offset));
        }
    }
}

// The parts of a block's working memory.
typedef struct {
    void *packed, *rest;                             // of products, of attention
    char *normed, *middle, *qkv, *attended, *hidden; // (rows, …)
} Buffers;

enum { N_BUFFERS = 7 };

static void buffer_sizes(const BlockWeights *w, const AttentionArgs *a, int threads, long sizes[N_BUFFERS]) {
    const long rows = a->batch * a->tokens, size = rows * size_of(a->type), width = w->down.out * size;
    const Matrix *matrices[] = {&w->qkv, &w->output, &w->gate_up, &w->down};
    long packed = 0;
    for (int i = 0; i < 4; i++) {
        const int activation = matrices[i] == &w->gate_up ? w->activation : NO_GATE;
        const long bytes = product_scratch(matrices[i], rows, activation, threads);
        packed = bytes > packed ? bytes : packed;
    }
    const long rest = a->tokens > 1 ? attend_many_scratch(a, threads) : attention_scratch(a);
    const long all[N_BUFFERS] = {packed, rest, width, width, w->qkv.out * size, w->output.in * size, w->down.in * size};
    for (int i = 0; i < N_BUFFERS; i++) sizes[i] = (all[i] + 63) / 64 * 64;
}

long block_scratch(const BlockWeights *w, const AttentionArgs *a, int threads) {
    long sizes[N_BUFFERS], total = 0;
    buffer_sizes(w, a, threads, sizes);
    for (int i = 0; i < N_BUFFERS; i++) total += sizes[i];
    return total;
}

static Buffers buffers(const BlockWeights *w, const AttentionArgs *a, char *scratch) {
    long sizes[N_BUFFERS];
    char *at[N_BUFFERS];
    buffer_sizes(w, a, omp_get_num_threads(), sizes);
    for (int i = 0; i < N_BUFFERS; scratch += sizes[i++]) at[i] = scratch;
    return (Buffers){at[0], at[1], at[2], at[3], at[4], at[5], at[6]};
}

// y = middle + mlp(norm(middle)), middle = x + attention(norm(x)). Called by every thread of a team.
void block(const BlockWeights *w, AttentionArgs *a, const void *x, char *scratch, void *y) {
    const long rows = a->batch * a->tokens;
    const int type = a->type;
    const Buffers b = buffers(w, a, scratch);
#pragma omp master
    {
        a->q_stride = a->k_stride = a->v_stride = w->qkv.out;
        a->q = b.qkv;
        a->k = at(b.qkv, type, a->heads * a->dim);
        a->v = at(b.qkv, type, (a->heads + a->kv_heads) * a->dim);
        a->y = b.attended;
    } // seen by the others after the next barriers
    norm(&w->attention_norm, x, rows, b.normed);
    product(&w->qkv, b.normed, rows, NULL, 0, b.packed, b.qkv);
#pragma omp barrier
    if (a->tokens > 1) attend_many(a, b.rest);
    else attention(a, b.rest);
    product(&w->output, b.attended, rows, x, w->residual_scale, b.packed, b.middle);
#pragma omp barrier
    norm(&w->mlp_norm, b.middle, rows, b.normed);
    gated_product(&w->gate_up, b.normed, rows, w->activation, b.packed, b.hidden);
#pragma omp barrier
    product(&w->down, b.hidden, rows, b.middle, w->residual_scale, b.packed, y);
}
