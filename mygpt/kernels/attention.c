// Attention of one new token of each sequence over its cache. Called by every thread of a team.
#include "vectors.h"

#define CHUNK 128     // slots that one thread works through: keys and values of as many stay in its cache
#define MAX_DIM 256   // of a head
#define MAX_GROUP 64  // query heads to a key head

// Scores of `count` keys, (count, dim), for the queries of a group (group, dim).
INLINE void score(const int type, const long dim, const float *q, long group, const void *keys, long count, float *s) {
    for (long j = 0; j < count; j++) {
        vec k[MAX_DIM / LANES];
        for (long d = 0; d < dim / LANES; d++) k[d] = load(type, keys, j * dim + d * LANES);
        for (long g = 0; g < group; g++) {
            vec total = splat(0);
            for (long d = 0; d < dim / LANES; d++) total += k[d] * load(F32, q, g * dim + d * LANES);
            s[g * CHUNK + j] = sum(total);
        }
    }
}

// scores to e^(scores - max), in place; returns their sum.
static float soften(float *s, long count, float *max) {
    vec most = splat(-INFINITY), total = splat(0);
    for (long j = count; j % LANES; j++) s[j] = -INFINITY;
    for (long j = 0; j < count; j += LANES) {
        vec x = load(F32, s, j);
        most = (vec)(((ivec)x & (x > most)) | ((ivec)most & ~(x > most)));
    }
    *max = most[0];
    for (int i = 1; i < LANES; i++) *max = fmaxf(*max, most[i]);
    for (long j = 0; j < count; j += LANES) {
        vec e = exponential(load(F32, s, j) - *max);
        store(F32, s, j, e);
        total += e;
    }
    for (long j = count; j % LANES; j++) total[j % LANES] -= s[j];
    return sum(total);
}

// y (dim) = the sum of weights (count) times values (count, dim).
INLINE void mix(const int type, const long dim, const float *weights, const void *values, long count, float *y) {
    vec total[MAX_DIM / LANES];
    for (long d = 0; d < dim / LANES; d++) total[d] = splat(0);
    for (long j = 0; j < count; j++)
        for (long d = 0; d < dim / LANES; d++) total[d] += weights[j] * load(type, values, j * dim + d * LANES);
    for (long d = 0; d < dim / LANES; d++) store(F32, y, d * LANES, total[d]);
}

// A group of query heads over `count` slots: parts (group, with a stride), each the scores' max, sum, then y (dim).
INLINE void chunk(const int type, const long dim, const float *q, long group, const void *keys, const void *values,
                  long count, float scale, float *parts, long stride) {
    float s[MAX_GROUP * CHUNK];
    score(type, dim, q, group, keys, count, s);
    for (long g = 0; g < group; g++) {
        float *weights = s + g * CHUNK, *part = parts + g * stride;
        for (long j = 0; j < count; j++) weights[j] *= scale;
        part[1] = soften(weights, count, part);
        mix(type, dim, weights, values, count, part + 2);
    }
}

// One head of q or k: dimension i turns together with i + width / 2, as `mygpt.rope.rotate` has it.
static void rotate(int type, const void *x, const void *cos, const void *sin, long width, long dim, int to, void *y) {
    for (long i = 0; i < dim; i++) {
        float value = load1(type, x, i);
        if (i < width) {
            float other = load1(type, x, i < width / 2 ? i + width / 2 : i - width / 2);
            value = rounded(type, value * load1(type, cos, i)) + other * load1(type, sin, i);
        }
        store1(to, y, i, rounded(type, value));
    }
}

long attention_scratch(const Attention *a) {
    long chunks = (a->seen + CHUNK - 1) / CHUNK;
    return a->batch * a->heads * (a->dim + chunks * (a->dim + 2));
}

void attention(const Attention *a, float *scratch) {
    const long dim = a->dim, group = a->heads / a->kv_heads, chunks = (a->seen + CHUNK - 1) / CHUNK;
    float *q = scratch, *parts = q + a->batch * a->heads * dim; // of each chunk: max, sum, then dim numbers
    const int type = a->type;
#pragma omp for
    for (long i = 0; i < a->batch * (a->heads + a->kv_heads); i++) {
        long b = i / (a->heads + a->kv_heads), h = i % (a->heads + a->kv_heads), k = h - a->heads;
        const void *cos = at(a->cos, type, b * a->rotated), *sin = at(a->sin, type, b * a->rotated);
        if (k < 0) {
            const void *x = at(a->q, type, b * a->q_stride + h * dim);
            rotate(type, x, cos, sin, a->rotated, dim, F32, q + (b * a->heads + h) * dim);
            continue;
        }
        long slot = b * a->sequence_stride + k * a->head_stride + a->positions[b] % a->slots * dim;
        const void *x = at(a->k, type, b * a->k_stride + k * dim);
        rotate(type, x, cos, sin, a->rotated, dim, type, (void *)at(a->keys, type, slot));
        memcpy((void *)at(a->values, type, slot), at(a->v, type, b * a->v_stride + k * dim), dim * size_of(type));
    }
#pragma omp for
    for (long i = 0; i < a->batch * a->kv_heads * chunks; i++) {
        long b = i / (a->kv_heads * chunks), k = i / chunks % a->kv_heads, nth = i % chunks;
        long held = a->positions[b] < a->slots ? a->positions[b] + 1 : a->slots, first = nth * CHUNK;
        long count = held - first < CHUNK ? held - first : CHUNK;
        if (count <= 0) continue;
        long offset = b * a->sequence_stride + k * a->head_stride + first * dim, head = b * a->heads + k * group;
        const void *keys = at(a->keys, type, offset), *values = at(a->values, type, offset);
        float *own = parts + (head * chunks + nth) * (dim + 2);
        const long stride = chunks * (dim + 2);
        const float *queries = q + head * dim;
        // The usual sizes as constants: what is summed then stays in registers.
        if (type == BF16 && dim == 64) chunk(BF16, 64, queries, group, keys, values, count, a->scale, own, stride);
        else if (type == BF16 && dim == 128)
            chunk(BF16, 128, queries, group, keys, values, count, a->scale, own, stride);
        else if (type == F32 && dim == 64) chunk(F32, 64, queries, group, keys, values, count, a->scale, own, stride);
        else chunk(type, dim, queries, group, keys, values, count, a->scale, own, stride);
    }
#pragma omp for
    for (long i = 0; i < a->batch * a->heads; i++) {
        long b = i / a->heads, held = a->positions[b] < a->slots ? a->positions[b] + 1 : a->slots;
        const float *part = parts + i * chunks * (dim + 2);
        float max = -INFINITY, total = 0, y[MAX_DIM] = {0};
        for (long c = 0; c * CHUNK < held; c++) max = fmaxf(max, part[c * (dim + 2)]);
        for (long c = 0; c * CHUNK < held; c++) {
            const float *p = part + c * (dim + 2);
            float factor = expf(p[0] - max);
            total += factor * p[1];
            for (long d = 0; d < dim; d++) y[d] += factor * p[d + 2];
        }
        for (long d = 0; d < dim; d++) store1(type, a->y, i * dim + d, y[d] / total);
    }
}
