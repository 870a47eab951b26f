// Attention of one new token of each sequence over its cache. Called by every thread of a team.
#include "kernels.h"

#define CHUNK 128     // slots that one thread works through: keys and values of as many stay in its cache
#define MAX_TILE 16   // sums that the registers hold beside what is added to them

// Fetch what will be read next: the processor, which sees keys and values by turns, would wait for both.
INLINE void fetch(const int type, const void *from, long numbers) {
    for (long i = 0; i < numbers * size_of(type); i += 64) __builtin_prefetch((const char *)from + i, 0, 3);
}

// `J` keys, (J, dim), with `G` queries (G, dim) of the same type: a tile of J * G == LANES scores, s[g * CHUNK + j].
INLINE void score_tile(const int type, const int J, const int G, const long dim, const void *q, const void *keys,
                       float *s) {
    vec acc[LANES];
    for (int i = 0; i < LANES; i++) acc[i] = splat(0);
    long d = 0;
#ifdef __AVX512BF16__
    for (; type == BF16 && d + 2 * LANES <= dim; d += 2 * LANES)
        for (int j = 0; j < J; j++) {
            __m512bh k = (__m512bh)_mm512_loadu_si512(at(keys, BF16, j * dim + d));
            for (int g = 0; g < G; g++) {
                __m512bh x = (__m512bh)_mm512_loadu_si512(at(q, BF16, g * dim + d));
                acc[g * J + j] = (vec)_mm512_dpbf16_ps((__m512)acc[g * J + j], k, x);
            }
        }
#endif
    for (; d < dim; d += LANES)
        for (int j = 0; j < J; j++) {
            vec k = load(type, keys, j * dim + d);
            for (int g = 0; g < G; g++) acc[g * J + j] += k * load(type, q, g * dim + d);
        }
    vec sums = sum_each(acc);
    for (int g = 0; g < G; g++) memcpy(s + g * CHUNK, (float *)&sums + g * J, J * sizeof(float));
}

// A chunk of the cache: keys and values (count, dim), and what is read after them.
typedef struct {
    const void *keys, *values, *next;
    long count;
} Slots;

// Scores of a chunk's keys for the queries of a group (group, dim). Each key is read for four of them.
INLINE void score(const int type, const long dim, const void *q, long group, Slots slots, float *s) {
    const void *keys = slots.keys;
    const long count = slots.count;
    long j = 0;
    for (; j + LANES <= count; j += LANES) {
        long g = 0;
        fetch(type, at(slots.values, type, j * dim), LANES * dim);
        for (; g + 4 <= group; g += 4)
            for (long i = j; i < j + LANES; i += 4)
                score_tile(type, 4, 4, dim, at(q, type, g * dim), at(keys, type, i * dim), s + g * CHUNK + i);
        for (; g < group; g++)
            score_tile(type, LANES, 1, dim, at(q, type, g * dim), at(keys, type, j * dim), s + g * CHUNK + j);
    }
    for (; j < count; j++)
        for (long g = 0; g < group; g++) {
            vec total = splat(0);
            for (long d = 0; d < dim; d += LANES)
                total += load(type, keys, j * dim + d) * load(type, q, g * dim + d);
            s[g * CHUNK + j] = sum(total);
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

// y (G, with a stride) = the sums of weights (G, CHUNK) times a chunk's values, `width` numbers of each, from `from` on.
INLINE void mix(const int type, const int G, const long width, long dim, const float *weights, Slots slots, long from,
                float *y, long stride) {
    const void *values = at(slots.values, type, from), *next = at(slots.next, type, from);
    const long n = width / LANES;
    vec total[MAX_TILE];
    for (long i = 0; i < G * n; i++) total[i] = splat(0);
    for (long j = 0; j < slots.count; j++) {
        fetch(type, at(next, type, j * dim), width);
        for (long d = 0; d < n; d++) {
            vec v = load(type, values, j * dim + d * LANES);
            for (int g = 0; g < G; g++) total[g * n + d] += weights[g * CHUNK + j] * v;
        }
    }
    for (int g = 0; g < G; g++)
        for (long d = 0; d < n; d++) store(F32, y, g * stride + from + d * LANES, total[g * n + d]);
}

// The same of a whole group: each value is read for four heads, and as many of its numbers as registers hold.
INLINE void mix_group(const int type, const long dim, const float *weights, long group, Slots slots, float *y,
                      long stride) {
    long g = 0;
    for (; g + 4 <= group; g += 4)
        for (long d = 0, n; d < dim; d += n) {
            const float *w = weights + g * CHUNK;
            n = dim - d >= 64 ? 64 : LANES;
            if (n == 64) mix(type, 4, 64, dim, w, slots, d, y + g * stride, stride);
            else mix(type, 4, LANES, dim, w, slots, d, y + g * stride, stride);
        }
    for (; g < group; g++) mix(type, 1, dim, dim, weights + g * CHUNK, slots, 0, y + g * stride, stride);
}

// A group of query heads over a chunk: parts (group, with a stride), each the scores' max, sum, then y (dim).
INLINE void chunk(const int type, const long dim, const void *q, long group, Slots slots, float scale, float *parts,
                  long stride) {
    float s[MAX_GROUP * CHUNK];
    score(type, dim, q, group, slots, s);
    for (long g = 0; g < group; g++) {
        float *weights = s + g * CHUNK, *part = parts + g * stride;
        for (long j = 0; j < slots.count; j++) weights[j] *= scale;
        part[1] = soften(weights, slots.count, part);
    }
    mix_group(type, dim, s, group, slots, parts + 2, stride);
}

long attention_scratch(const AttentionArgs *a) {
    long chunks = (a->seen + CHUNK - 1) / CHUNK;
    return a->batch * a->heads * (a->dim + chunks * (a->dim + 2)) * sizeof(float);
}

void attention(const AttentionArgs *a, float *scratch) {
    const long dim = a->dim, group = a->heads / a->kv_heads, chunks = (a->seen + CHUNK - 1) / CHUNK;
    float *parts = scratch + a->batch * a->heads * dim; // of each chunk: max, sum, then dim numbers
    char *q = (char *)scratch;
    const int type = a->type;
    const long size = size_of(type);
#pragma omp for
    for (long i = 0; i < a->batch * (a->heads + a->kv_heads); i++) {
        long b = i / (a->heads + a->kv_heads), h = i % (a->heads + a->kv_heads), k = h - a->heads;
        const void *cos = at(a->cos, type, b * a->rotated), *sin = at(a->sin, type, b * a->rotated);
        if (k < 0) {
            const void *x = at(a->q, type, b * a->q_stride + h * dim);
            rotate(type, x, cos, sin, a->rotated, dim, q + (b * a->heads + h) * dim * size);
            continue;
        }
        long slot = b * a->sequence_stride + k * a->head_stride + a->positions[b] % a->slots * dim;
        const void *x = at(a->k, type, b * a->k_stride + k * dim);
        rotate(type, x, cos, sin, a->rotated, dim, (void *)at(a->keys, type, slot));
        memcpy((void *)at(a->values, type, slot), at(a->v, type, b * a->v_stride + k * dim), dim * size);
    }
#pragma omp for
    for (long i = 0; i < a->batch * a->kv_heads * chunks; i++) {
        long b = i / (a->kv_heads * chunks), k = i / chunks % a->kv_heads, nth = i % chunks;
        long held = a->positions[b] < a->slots ? a->positions[b] + 1 : a->slots, first = nth * CHUNK;
        long count = held - first < CHUNK ? held - first : CHUNK;
        if (count <= 0) continue;
        long offset = b * a->sequence_stride + k * a->head_stride + first * dim, head = b * a->heads + k * group;
        const void *keys = at(a->keys, type, offset);
        const Slots slots = {keys, at(a->values, type, offset), at(keys, type, CHUNK * dim), count};
        float *own = parts + (head * chunks + nth) * (dim + 2);
        const long stride = chunks * (dim + 2);
        const void *queries = at(q, type, head * dim);
        // The usual sizes as constants: what is summed then stays in registers.
        if (type == BF16 && dim == 64) chunk(BF16, 64, queries, group, slots, a->scale, own, stride);
        else if (type == BF16 && dim == 128) chunk(BF16, 128, queries, group, slots, a->scale, own, stride);
        else if (type == F32 && dim == 64) chunk(F32, 64, queries, group, slots, a->scale, own, stride);
        else chunk(type, dim, queries, group, slots, a->scale, own, stride);
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
