// What Python calls: each function is one parallel region.
#include "vectors.h"

#define EXPORT __attribute__((visibility("default")))

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

// y = x / rms(x) * (offset + weight): rows (rows, width), shared by the team.
static void norm(int type, const void *x, const void *weight, long rows, long width, float eps, float offset,
                 void *y) {
#pragma omp for
    for (long n = 0; n < rows; n++) {
        const void *xs = at(x, type, n * width);
        void *ys = (void *)at(y, type, n * width);
        vec total = splat(0);
        long i = 0;
        for (; i + LANES <= width; i += LANES) total += load(type, xs, i) * load(type, xs, i);
        float squares = sum(total);
        for (; i < width; i++) squares += load1(type, xs, i) * load1(type, xs, i);
        const float scale = 1 / sqrtf(squares / width + eps);
        for (i = 0; i + LANES <= width; i += LANES) {
            vec normed = load(type, xs, i) * scale;
            store(type, ys, i, normed * (load(type, weight, i) + offset));
        }
        for (; i < width; i++) {
            float normed = load1(type, xs, i) * scale;
            store1(type, ys, i, normed * (load1(type, weight, i) + offset));
        }
    }
}

// Whether products of 4-bit weights were compiled: see fourbit.c.
EXPORT int mygpt_has_fourbit(void) {
#ifdef HAS_FOURBIT
    return 1;
#else
    return 0;
#endif
}

EXPORT void mygpt_norm(int threads, int type, const void *x, const void *weight, long rows, long width, float eps,
                       float offset, void *y) {
#pragma omp parallel num_threads(threads)
    norm(type, x, weight, rows, width, eps, offset, y);
}

EXPORT void mygpt_gate(int threads, int type, const void *x, long rows, long width, int activation, void *y) {
#pragma omp parallel num_threads(threads)
    gate(type, x, rows, width, activation, y);
}

EXPORT void mygpt_linear(int threads, const Matrix *m, int type, const void *x, long rows, const void *residual,
                         float alpha, void *y) {
    void *packed = scratch(product_scratch(m, type, rows, NO_GATE, threads));
#pragma omp parallel num_threads(threads)
    product(m, type, x, rows, residual, alpha, packed, y);
}

EXPORT int mygpt_has_tiles(void) { return has_tiles(); }

EXPORT void mygpt_tiles(int threads, const Matrix *m, const uint16_t *x, long rows, int activation, uint16_t *y) {
    void *memory;
#pragma omp parallel num_threads(threads)
    {
#pragma omp master // as many as there are, which may be fewer than asked for
        memory = scratch(tiles_scratch(m, rows, activation, omp_get_num_threads()));
#pragma omp barrier
        tiles_product(m, x, rows, activation, memory, y);
    }
}

EXPORT void mygpt_gated(int threads, const Matrix *m, int type, const void *x, long rows, int activation, void *y) {
    void *packed = scratch(product_scratch(m, type, rows, activation, threads));
#pragma omp parallel num_threads(threads)
    gated_product(m, type, x, rows, activation, packed, y);
}

EXPORT void mygpt_attention(int threads, const Attention *a) {
    float *memory = scratch(attention_scratch(a) * sizeof(float));
#pragma omp parallel num_threads(threads)
    attention(a, memory);
}

EXPORT void mygpt_attend_many(int threads, const Attention *a) {
    char *memory;
#pragma omp parallel num_threads(threads)
    {
#pragma omp master
        memory = scratch(attend_many_scratch(a, omp_get_num_threads()));
#pragma omp barrier
        attend_many(a, memory);
    }
}

EXPORT void mygpt_team_sum(int threads, Team *t, int type, const void *x, long n, void *y) {
#pragma omp parallel num_threads(threads)
    team_sum(t, type, x, n, NULL, 0, y);
}

EXPORT void mygpt_team_gather(Team *t, const void *x, long bytes, void *y) { team_gather(t, x, bytes, y); }

// Weights of a block of the kind `mygpt.model.Block`, with RMS norms and a gated MLP.
typedef struct {
    Matrix qkv, output, gate_up, down;
    const void *attention_norm, *mlp_norm;
    long activation;
    float eps, offset, residual_scale;
} Block;

// y = residual + scale * (the product of x); with a team each rank has a part of x and of the matrix.
static void add_product(const Matrix *m, int type, const void *x, long rows, Team *team, const void *residual,
                        float scale, void *packed, void *partial, void *y) {
    if (!team) {
        product(m, type, x, rows, residual, scale, packed, y);
        return;
    }
    product(m, type, x, rows, NULL, 0, packed, partial);
#pragma omp barrier
    team_sum(team, type, partial, rows * m->out, residual, scale, y);
}

// Working memory of a block, for so many threads.
typedef struct {
    void *packed, *rest;                            // of products, of attention
    char *normed, *middle, *qkv, *attended, *hidden; // (rows, …)
} Buffers;

static Buffers buffers(const Block *w, const Attention *a, int threads) {
    const long rows = a->batch * a->tokens, size = rows * size_of(a->type), width = w->down.out * size;
    const long widths[] = {0, 0, width, width, w->qkv.out * size, w->output.in * size, w->down.in * size};
    const Matrix *matrices[] = {&w->qkv, &w->output, &w->gate_up, &w->down};
    long sizes[7], total = 0;
    memcpy(sizes, widths, sizeof sizes);
    for (int i = 0; i < 4; i++) {
        const int activation = matrices[i] == &w->gate_up ? w->activation : NO_GATE;
        const long bytes = product_scratch(matrices[i], a->type, rows, activation, threads);
        sizes[0] = bytes > sizes[0] ? bytes : sizes[0];
    }
    sizes[1] = a->tokens > 1 ? attend_many_scratch(a, threads) : attention_scratch(a) * (long)sizeof(float);
    for (int i = 0; i < 7; i++) total += sizes[i] = (sizes[i] + 63) / 64 * 64;
    char *at[7], *memory = scratch(total);
    for (int i = 0; i < 7; memory += sizes[i++]) at[i] = memory;
    return (Buffers){at[0], at[1], at[2], at[3], at[4], at[5], at[6]};
}

// y (batch * tokens, width) = the block of x. Of `a`, the places of q, k, v and y are filled in here.
EXPORT void mygpt_block(int threads, const Block *w, Attention *a, Team *team, const void *x, void *y) {
    const long rows = a->batch * a->tokens, width = w->down.out;
    const int type = a->type;
    Buffers b;
    a->q_stride = a->k_stride = a->v_stride = w->qkv.out;
#pragma omp parallel num_threads(threads)
    {
#pragma omp master // as many as there are, which may be fewer than asked for
        {
            b = buffers(w, a, omp_get_num_threads());
            a->q = b.qkv;
            a->k = at(b.qkv, type, a->heads * a->dim);
            a->v = at(b.qkv, type, (a->heads + a->kv_heads) * a->dim);
            a->y = b.attended;
        }
#pragma omp barrier
        norm(type, x, w->attention_norm, rows, width, w->eps, w->offset, b.normed);
        product(&w->qkv, type, b.normed, rows, NULL, 0, b.packed, b.qkv);
#pragma omp barrier
        if (a->tokens > 1) attend_many(a, b.rest);
        else attention(a, b.rest);
        add_product(&w->output, type, b.attended, rows, team, x, w->residual_scale, b.packed, b.normed, b.middle);
#pragma omp barrier
        norm(type, b.middle, w->mlp_norm, rows, width, w->eps, w->offset, b.normed);
        gated_product(&w->gate_up, type, b.normed, rows, w->activation, b.packed, b.hidden);
#pragma omp barrier
        add_product(&w->down, type, b.hidden, rows, team, b.middle, w->residual_scale, b.packed, b.normed, y);
    }
}
