// Products of a few rows with a weight matrix, read once, at the speed of memory. Called by every thread of a team.
#include "vectors.h"

#define MAX_ROWS 16
#define MOST 4 // rows of x at a time: TILE * MOST sums are what the registers hold
#define TILE 4 // rows of weights at a time: as many streams from memory, and sums to keep the CPU busy

// sums[r * N + n]: rows n of x (N, in) times rows r of w (R, in).
INLINE void dots(const int wtype, const int xtype, const int R, const int N, const void *w, const void *x, long in,
                 float *sums) {
    const long size = size_of(wtype), line = 64 / size;
    // Fetched ahead: the same place of the next R rows, or further along these where they are long.
    const long ahead = R * in * size <= 16384 ? R * in : 1024 / size;
    vec acc[TILE][MOST];
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) acc[r][n] = splat(0);
    long i = 0;
    for (; i + line <= in; i += line) {
        for (int r = 0; r < R; r++) __builtin_prefetch(at(w, wtype, r * in + i + ahead), 0, 3);
#ifdef __AVX512BF16__
        if (wtype == BF16 && xtype == BF16) {
            __m512bh xs[MOST];
            for (int n = 0; n < N; n++) xs[n] = (__m512bh)_mm512_loadu_si512(at(x, BF16, n * in + i));
            for (int r = 0; r < R; r++) {
                __m512bh ws = (__m512bh)_mm512_loadu_si512(at(w, BF16, r * in + i));
                for (int n = 0; n < N; n++) acc[r][n] = (vec)_mm512_dpbf16_ps((__m512)acc[r][n], ws, xs[n]);
            }
            continue;
        }
#endif
        for (long j = i; j < i + line; j += LANES) {
            vec xs[MOST];
            for (int n = 0; n < N; n++) xs[n] = load(xtype, x, n * in + j);
            for (int r = 0; r < R; r++) {
                vec ws = load(wtype, w, r * in + j);
                for (int n = 0; n < N; n++) acc[r][n] += ws * xs[n];
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) {
            float s = sum(acc[r][n]);
            for (long j = i; j < in; j++) s += load1(wtype, w, r * in + j) * load1(xtype, x, n * in + j);
            sums[r * N + n] = s;
        }
}

#ifdef __AVX512F__
// As `dots`, for bitsandbytes' packing: the first of two numbers in the high half of a byte, `scales` for 64 each.
// x is float32, of each 32 numbers first the even ones, then the odd.
INLINE void dots4(const int R, const int N, const uint8_t *w, const float *scales, const float *table, const float *x,
                  long in, float *sums) {
    const __m512 values = _mm512_loadu_ps(table);
    const long ahead = R * in <= 32768 ? R * in / 2 : 1024;
    __m512 acc[TILE][MOST];
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) acc[r][n] = _mm512_setzero_ps();
    for (long i = 0; i < in; i += 64)
        for (int r = 0; r < R; r++) {
            const uint8_t *p = w + (r * in + i) / 2;
            __builtin_prefetch(p + ahead, 0, 3);
            __m512i a = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
            __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p + 16)));
            // the look-up takes the low four bits of each index
            __m512 odd_a = _mm512_permutexvar_ps(a, values), odd_b = _mm512_permutexvar_ps(b, values);
            __m512 even_a = _mm512_permutexvar_ps(_mm512_srli_epi32(a, 4), values);
            __m512 even_b = _mm512_permutexvar_ps(_mm512_srli_epi32(b, 4), values);
            __m512 scale = _mm512_set1_ps(scales[(r * in + i) / 64]);
            for (int n = 0; n < N; n++) {
                const float *xs = x + n * in + i;
                __m512 s = _mm512_mul_ps(even_a, _mm512_loadu_ps(xs));
                s = _mm512_fmadd_ps(odd_a, _mm512_loadu_ps(xs + 16), s);
                s = _mm512_fmadd_ps(even_b, _mm512_loadu_ps(xs + 32), s);
                s = _mm512_fmadd_ps(odd_b, _mm512_loadu_ps(xs + 48), s);
                acc[r][n] = _mm512_fmadd_ps(s, scale, acc[r][n]);
            }
        }
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) sums[r * N + n] = sum((vec)acc[r][n]);
}
#endif

// R rows of weights from row o on, N rows of x from row n on.
INLINE void block(const int R, const int N, const Matrix *m, int xtype, const void *x, long o, long n, float *sums) {
    const void *w = at(m->weight, m->type, o * m->in), *xs = at(x, xtype, n * m->in);
    const long in = m->in;
    if (m->type == F32) dots(F32, F32, R, N, w, xs, in, sums);
    else if (m->type == BF16) dots(BF16, BF16, R, N, w, xs, in, sums);
    else if (m->type == INT8 && xtype == BF16) dots(INT8, BF16, R, N, w, xs, in, sums);
    else if (m->type == INT8) dots(INT8, F32, R, N, w, xs, in, sums);
#ifdef __AVX512F__
    else {
        const uint8_t *packed = (const uint8_t *)m->weight + o * in / 2;
        dots4(R, N, packed, m->scales + o * in / 64, m->table, (const float *)x + n * in, in, sums);
    }
#endif
}

// result[r * rows + n], for `count` <= TILE rows of weights from o on and all rows of x.
static void tile(const Matrix *m, int xtype, const void *x, long rows, long o, long count, float *result) {
    float sums[TILE * MOST];
    for (long n = 0, step; n < rows; n += step) {
        long left = rows - n;
        step = count < TILE ? 1 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (step == 4) block(TILE, 4, m, xtype, x, o, n, sums);
        else if (step == 2) block(TILE, 2, m, xtype, x, o, n, sums);
        else if (count == TILE) block(TILE, 1, m, xtype, x, o, n, sums);
        else
            for (long r = 0; r < count; r++) block(1, 1, m, xtype, x, o + r, n, sums + r);
        for (long r = 0; r < count; r++)
            for (long j = 0; j < step; j++) {
                float s = sums[r * step + j];
                if (m->type == INT8) s *= m->scales[o + r];
                s = rounded(xtype, s);
                if (m->bias) s = rounded(xtype, s + load1(xtype, m->bias, o + r));
                result[r * rows + n + j] = s;
            }
    }
}

// For 4-bit weights, x as `dots4` takes it, in `packed` (rows, in).
static const void *prepare(const Matrix *m, int xtype, const void *x, long rows, float *packed) {
    if (m->type != FOURBIT) return x;
#pragma omp for
    for (long i = 0; i < rows * m->in; i++) packed[(i & ~31) + (i & 1) * 16 + (i & 31) / 2] = load1(xtype, x, i);
    return packed;
}

// y (rows, out) = x (rows, in) W^T + bias; with a residual (rows, out), residual + alpha * that.
void product(const Matrix *m, int xtype, const void *x, long rows, const void *residual, float alpha, float *packed,
             void *y) {
    float result[TILE * MAX_ROWS];
    long first, last;
    x = prepare(m, xtype, x, rows, packed);
    share(m->out, TILE, &first, &last);
    for (long o = first; o < last; o += TILE) {
        long count = last - o < TILE ? last - o : TILE;
        tile(m, xtype, x, rows, o, count, result);
        for (long r = 0; r < count; r++)
            for (long n = 0; n < rows; n++) {
                float s = result[r * rows + n];
                if (residual) s = load1(xtype, residual, n * m->out + o + r) + alpha * s;
                store1(xtype, y, n * m->out + o + r, s);
            }
    }
}

// x / (1 + e^-x), or the same of GELU by its tanh approximation.
static vec activate(int activation, vec x) {
    vec t = activation == SILU ? x : 1.5957691216f * (x + 0.044715f * x * x * x);
    return x / (1 + exponential(-t));
}

// y (rows, out / 2) = activation(x G^T) * (x U^T), where W is G above U.
void gated_product(const Matrix *m, int xtype, const void *x, long rows, int activation, float *packed, void *y) {
    float gate[TILE * MAX_ROWS], up[TILE * MAX_ROWS], product[TILE * MAX_ROWS];
    long first, last, width = m->out / 2;
    memset(gate, 0, sizeof gate);
    x = prepare(m, xtype, x, rows, packed);
    share(width, TILE, &first, &last);
    for (long o = first; o < last; o += TILE) {
        long count = last - o < TILE ? last - o : TILE;
        tile(m, xtype, x, rows, o, count, gate);
        tile(m, xtype, x, rows, o + width, count, up);
        for (long i = 0; i < count * rows; i += LANES) {
            vec a = activate(activation, load(F32, gate, i));
            store(F32, product, i, a);
        }
        for (long r = 0; r < count; r++)
            for (long n = 0; n < rows; n++)
                store1(xtype, y, n * width + o + r, rounded(xtype, product[r * rows + n]) * up[r * rows + n]);
    }
}
