// Attention of many new tokens of each sequence over its cache, by the matrix unit: 32 tokens and a chunk of keys at a
// time, with the softmax's maximum and sum carried on from chunk to chunk (FlashAttention, arXiv:2205.14135).
//
// Scores stand keys by tokens, so that all of the softmax runs along vectors, and weights are pairs of keys as they come.
// It pays: this and the fused block of many tokens together made prompts of a 1.07 B model 1.08 to 1.23 times as fast.
#include "tiles.h"

#define TOKENS 32   // at a time
#define CHUNK 128   // keys at a time

#if TILES
// A thread's working memory; D is the heads' width, G the query heads to a key head.
typedef struct {
    float scores[CHUNK * TOKENS];
    uint16_t weights[CHUNK * TOKENS]; // tiles
    float factors[TOKENS];
    float *sums;                      // (G, 2, TOKENS): the maximum so far, and the sum of weights relative to it
    float *y;                         // (G, 2, D, 16): two tiles' tokens, not yet divided by these sums
    uint16_t *queries;                // (G, D / 32, 2) tiles
    uint16_t *keys, *values;          // (CHUNK, D), where the cache ends before; (D / 32, CHUNK / 32, 2) tiles
    uint16_t *rotated;                // (TOKENS, D)
} Work;

static long padded(long bytes) { return ceil_div(bytes, 64) * 64; }

long attend_many_scratch(const AttentionArgs *a, int threads) {
    const long group = a->heads / a->kv_heads, heads = group * TOKENS * (2 + a->dim) * sizeof(float);
    const long numbers = group * TOKENS * a->dim + 2 * CHUNK * a->dim + TOKENS * a->dim;
    return threads * (padded(sizeof(Work)) + padded(heads) + padded(numbers * sizeof(uint16_t)));
}

static Work *work_of(const AttentionArgs *a, char *scratch) {
    const long group = a->heads / a->kv_heads;
    Work *w = (Work *)(scratch + attend_many_scratch(a, 1) * omp_get_thread_num());
    w->sums = (float *)((char *)w + padded(sizeof(Work)));
    w->y = w->sums + group * 2 * TOKENS;
    w->queries = (uint16_t *)(w->y + group * TOKENS * a->dim);
    w->keys = w->queries + group * TOKENS * a->dim;
    w->values = w->keys + CHUNK * a->dim;
    w->rotated = w->values + CHUNK * a->dim;
    return w;
}

// Keys and values of token i of all to their slots.
static void keep(const AttentionArgs *a, long i) {
    const long b = i / a->tokens, slot = a->positions[i];
    for (long k = 0; k < a->kv_heads; k++) {
        const long offset = b * a->sequence_stride + k * a->head_stride + slot * a->dim;
        const uint16_t *key = (const uint16_t *)a->k + i * a->k_stride + k * a->dim;
        const uint16_t *value = (const uint16_t *)a->v + i * a->v_stride + k * a->dim;
        rotate(BF16, key, at(a->cos, BF16, i * a->rotated), at(a->sin, BF16, i * a->rotated), a->rotated, a->dim,
               (uint16_t *)a->keys + offset);
        memcpy((uint16_t *)a->values + offset, value, a->dim * sizeof(uint16_t));
    }
}

// Queries `first` to `first` + count - 1 (of all tokens) of a head, rotated, to tiles of pairs of columns by tokens.
static void pack_queries(const AttentionArgs *a, Work *w, long first, long count, long head, uint16_t *tiles) {
    for (long t = 0; t < count; t++) {
        const long i = first + t;
        const uint16_t *query = (const uint16_t *)a->q + i * a->q_stride + head * a->dim;
        rotate(BF16, query, at(a->cos, BF16, i * a->rotated), at(a->sin, BF16, i * a->rotated), a->rotated, a->dim,
               w->rotated + t * a->dim);
    }
    for (long d = 0; d < a->dim; d += DEPTH)
        for (long n = 0; n < TOKENS; n += SIDE, tiles += TILE) pack_x(w->rotated, count, a->dim, n, d, tiles);
}

// Values (count, D) to (D / 32, steps, 2) tiles of 16 columns by 32 keys; zeros where they end.
static void pack_values(const uint16_t *values, long count, long dim, long steps, uint16_t *tiles) {
    for (long d = 0; d < dim; d += SIDE)
        for (long s = 0; s < steps; s++) {
            ivec pairs[SIDE];
            for (long i = 0, j = s * DEPTH; i < SIDE; i++, j += 2) {
                bf16vec first = {}, second = {};
                if (j < count) memcpy(&first, values + j * dim + d, sizeof first);
                if (j + 1 < count) memcpy(&second, values + (j + 1) * dim + d, sizeof second);
                pairs[i] = (ivec)(__builtin_convertvector(first, uvec) | __builtin_convertvector(second, uvec) << 16);
            }
            transpose(pairs);
            memcpy(tiles + (d / DEPTH * steps + s) * 2 * TILE + d / SIDE % 2 * TILE, pairs, sizeof pairs);
        }
}

// 2^x for x <= 0, to 3e-6 of it.
INLINE vec power_of_two(vec x) {
    x = (vec)_mm512_max_ps((__m512)x, (__m512)splat(-150));
    const vec whole = (vec)_mm512_roundscale_ps((__m512)x, 0), r = x - whole;
    vec p = splat(1.3333558e-3f); // ln(2)^n / n!
    const float taylor[] = {9.6181291e-3f, 5.5504109e-2f, 0.24022651f, 0.69314718f, 1};
    for (int i = 0; i < 5; i++) p = p * r + taylor[i];
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)whole);
}

// The greatest of `before` and of the scores of 16 tokens and keys first to first + count - 1, of which those that a
// token is not to see become lowest.
INLINE vec most_of(float *scores, ivec positions, long first, long count, vec before) {
    vec most = before;
    for (long j = 0; j < count; j++) {
        const ivec seen = (ivec)(positions >= (int)(first + j));
        vec x = load(F32, scores, j * TOKENS);
        if (first + j > positions[0]) {
            x = (vec)(((ivec)x & seen) | ((ivec)splat(-1e30f) & ~seen));
            store(F32, scores, j * TOKENS, x);
        }
        most = (vec)_mm512_max_ps((__m512)most, (__m512)x);
    }
    return most;
}

// Scores to weights relative to the maximum so far; `positions` are the tokens', `scale` that of scores times log2(e).
static void soften(Work *w, const ivec positions[2], long first, long count, float scale, float *sums) {
    for (int n = 0; n < 2; n++) {
        float *scores = w->scores + n * SIDE;
        const vec before = load(F32, sums, n * SIDE), most = most_of(scores, positions[n], first, count, before);
        vec total = splat(0);
        for (long j = 0; j < count; j += 2) {
            const vec one = power_of_two((load(F32, scores, j * TOKENS) - most) * scale);
            vec other = splat(0);
            if (j + 1 < count) other = power_of_two((load(F32, scores, (j + 1) * TOKENS) - most) * scale);
            const ivec pairs = pairs_of(one, other);
            memcpy(w->weights + ((j / DEPTH * 2 + n) * SIDE + j % DEPTH / 2) * DEPTH, &pairs, sizeof pairs);
            total += one + other;
        }
        for (long j = (count + 1) / 2 * 2; j % DEPTH; j += 2)
            memset(w->weights + ((j / DEPTH * 2 + n) * SIDE + j % DEPTH / 2) * DEPTH, 0, 64);
        const vec factor = power_of_two((before - most) * scale);
        store(F32, w->factors, n * SIDE, factor);
        store(F32, sums, n * SIDE, most);
        store(F32, sums, TOKENS + n * SIDE, load(F32, sums, TOKENS + n * SIDE) * factor + total);
    }
}

// One query head over a chunk of keys.
static void head_chunk(const AttentionArgs *a, Work *w, long g, const ivec positions[2], const uint16_t *keys, long first,
                       long count) {
    const long dim = a->dim, steps = ceil_div(count, DEPTH);
    float *sums = w->sums + g * 2 * TOKENS, *y = w->y + g * TOKENS * dim;
    for (long j = 0; j < count; j += 2 * SIDE) {
        const Square scores = {w->scores + j * TOKENS, TOKENS, SIDE};
        add_square(1, (Rows){keys + j * dim, dim, DEPTH}, NULL, w->queries + g * TOKENS * dim, dim / DEPTH, 1, scores, NULL);
    }
    soften(w, positions, first, count, a->scale * 1.44269504f, sums);
    for (long i = 0; i < TOKENS * dim && first > 0; i += LANES)
        store(F32, y, i, load(F32, y, i) * load(F32, w->factors, i < SIDE * dim ? 0 : SIDE));
    for (long d = 0; d < dim; d += 2 * SIDE) {
        const Rows values = {w->values + d * steps * DEPTH, DEPTH, 2 * TILE};
        add_square(1, values, NULL, w->weights, steps, first == 0, (Square){y + d * SIDE, SIDE, SIDE * dim}, NULL);
    }
}

// A head's sums over all keys to y (count tokens, heads, D).
static void finish(const AttentionArgs *a, const Work *w, long g, long count, uint16_t *y) {
    const float *sums = w->sums + g * 2 * TOKENS + TOKENS, *from = w->y + g * TOKENS * a->dim;
    for (long n = 0; n < count; n += SIDE)
        for (long d = 0; d < a->dim; d += 2 * SIDE, from += 2 * SIDE * SIDE) {
            ivec lines[SIDE];
            for (long i = 0; i < SIDE; i++) // pairs of columns, of which transposing makes neighbours
                lines[i] = pairs_of(load(F32, from, 2 * i * SIDE) / load(F32, sums, n),
                                    load(F32, from, (2 * i + 1) * SIDE) / load(F32, sums, n));
            transpose(lines);
            for (long i = 0; i < SIDE && n + i < count; i++)
                memcpy(y + (n + i) * a->heads * a->dim + d, lines + i, sizeof lines[i]);
        }
}

// Tokens first to first + count - 1 of sequence b: the query heads of one key head.
static void group_tokens(const AttentionArgs *a, Work *w, long b, long k, long first, long count) {
    const long dim = a->dim, group = a->heads / a->kv_heads, token = b * a->tokens + first;
    const long offset = b * a->sequence_stride + k * a->head_stride, end = a->positions[token + count - 1] + 1;
    ivec positions[2];
    for (long i = 0; i < TOKENS; i++) positions[i / SIDE][i % SIDE] = a->positions[token + (i < count ? i : count - 1)];
    for (long g = 0; g < group; g++) {
        pack_queries(a, w, token, count, k * group + g, w->queries + g * TOKENS * dim);
        for (long i = 0; i < TOKENS; i++) w->sums[g * 2 * TOKENS + i] = -1e30f, w->sums[(g * 2 + 1) * TOKENS + i] = 0;
    }
    for (long j = 0; j < end; j += CHUNK) {
        const long n = end - j < CHUNK ? end - j : CHUNK;
        const uint16_t *keys = (const uint16_t *)a->keys + offset + j * dim;
        if (j + ceil_div(n, DEPTH) * DEPTH > a->slots) keys = memcpy(w->keys, keys, n * dim * sizeof(uint16_t));
        pack_values((const uint16_t *)a->values + offset + j * dim, n, dim, ceil_div(n, DEPTH), w->values);
        for (long g = 0; g < group; g++) head_chunk(a, w, g, positions, keys, j, n);
    }
    for (long g = 0; g < group; g++) finish(a, w, g, count, (uint16_t *)a->y + (token * a->heads + k * group + g) * dim);
}

// Rotate q and k, write k and v to the cache, attend to what it holds then. Called by every thread of a team.
void attend_many(const AttentionArgs *a, char *scratch) {
    Work *w = work_of(a, scratch);
    const long heads = a->batch * a->kv_heads, blocks = ceil_div(a->tokens, TOKENS);
#pragma omp for
    for (long i = 0; i < a->batch * a->tokens; i++) keep(a, i);
    configure();
#pragma omp for schedule(dynamic)
    for (long i = 0; i < heads * blocks; i++) { // the last tokens first, which have most to see
        const long first = (blocks - 1 - i / heads) * TOKENS, left = a->tokens - first, h = i % heads;
        group_tokens(a, w, h / a->kv_heads, h % a->kv_heads, first, left < TOKENS ? left : TOKENS);
    }
    release();
}
#else
long attend_many_scratch(const AttentionArgs *a, int threads) { return 0; }
void attend_many(const AttentionArgs *a, char *scratch) {}
#endif
