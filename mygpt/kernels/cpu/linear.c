// Products of a few rows with a weight matrix, read once, at the speed of memory. Called by every thread of a team.
#include "kernels.h"

#define FOURBIT_TILE 32
#define MOST 4 // rows of x at a time: TILE * MOST sums are what the registers hold
#define TILE 4 // rows of weights at a time: as many streams from memory, and sums to keep the CPU busy

// sums[r * N + n]: rows n of x (N, in) times rows r of w (R, in).
INLINE void dots(const int wtype, const int xtype, const int R, const int N, const void *w, const void *x, long in,
                 float *sums) {
    const long size = size_of(wtype), line = 64 / size;
    // Fetched ahead: the same columns of the next R rows, or further along these where they are long.
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

// R rows of weights from row o on, N rows of x from row n on.
INLINE void rows_dots(const int R, const int N, const Matrix *m, const void *x, long o, long n, float *sums) {
    const void *w = at(m->weight, m->type, o * m->in), *xs = at(x, m->xtype, n * m->in);
    const long in = m->in;
    if (m->type == F32) dots(F32, F32, R, N, w, xs, in, sums);
    else if (m->type == BF16) dots(BF16, BF16, R, N, w, xs, in, sums);
    else if (m->type == INT8 && m->xtype == BF16) dots(INT8, BF16, R, N, w, xs, in, sums);
    else dots(INT8, F32, R, N, w, xs, in, sums);
}

// result[r * rows + n], for `count` <= TILE rows of weights from o on and all rows of x.
static void tile(const Matrix *m, const void *x, long rows, long o, long count, float *result) {
    float sums[TILE * MOST];
    for (long n = 0, step; n < rows; n += step) {
        long left = rows - n;
        step = count < TILE ? 1 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (step == 4) rows_dots(TILE, 4, m, x, o, n, sums);
        else if (step == 2) rows_dots(TILE, 2, m, x, o, n, sums);
        else if (count == TILE) rows_dots(TILE, 1, m, x, o, n, sums);
        else
            for (long r = 0; r < count; r++) rows_dots(1, 1, m, x, o + r, n, sums + r);
        for (long r = 0; r < count; r++)
            for (long j = 0; j < step; j++) result[r * rows + n + j] = sums[r * step + j];
    }
}

// Rows of weights that are worked on together.
INLINE long tile_rows(const Matrix *m) { return m->type == FOURBIT ? FOURBIT_TILE : TILE; }

// The same for all types, with their scales and the bias, rounded as torch does. `packed` is from `prepare`.
static void outputs(const Matrix *m, const void *x, const void *packed, long rows, long o, long count, float *result) {
    const int xtype = m->xtype;
    if (m->type == FOURBIT) fourbit_tile(m, packed, rows, o, result);
    else if (packed) int8_tile(m, packed, rows, o, count, result);
    else tile(m, x, rows, o, count, result);
    for (long r = 0; r < count; r++)
        for (long n = 0; n < rows; n++) {
            float s = result[r * rows + n];
            if (m->type == INT8) s *= load1(xtype, m->scales, o + r);
            s = rounded(xtype, s);
            if (m->bias) s = rounded(xtype, s + load1(xtype, m->bias, o + r));
            result[r * rows + n] = s;
        }
}

static long packed_bytes(const Matrix *m, long rows) {
    if (m->type == FOURBIT) return rows * fourbit_scratch(m->in);
    return m->type == INT8 && m->xtype == BF16 ? rows * int8_scratch(m->in) : 0;
}

long product_scratch(const Matrix *m, long rows, int activation, int threads) {
    return tiles_are_best(m, rows) ? tiles_scratch(m, rows, activation, threads) : packed_bytes(m, rows);
}

// x as `int8_tile` or `fourbit_tile` takes it, in `packed`; NULL where x is taken as it is.
static const void *prepare(const Matrix *m, const void *x, long rows, void *packed) {
    if (packed_bytes(m, rows) == 0) return NULL;
    (m->type == FOURBIT ? fourbit_prepare : int8_prepare)(x, rows, m->in, packed);
    return packed;
}

// y = residual + scale * y, n numbers, which the other threads of the team may still be writing.
static void add_residual(int type, const void *residual, float scale, long n, void *y) {
#pragma omp barrier
#pragma omp for
    for (long i = 0; i < n / LANES; i++)
        store(type, y, i * LANES, load(type, residual, i * LANES) + scale * load(type, y, i * LANES));
#pragma omp single
    for (long i = n / LANES * LANES; i < n; i++) store1(type, y, i, load1(type, residual, i) + scale * load1(type, y, i));
}

// y (rows, out) = x (rows, in) W^T + bias; with a residual (rows, out), residual + scale * that.
void product(const Matrix *m, const void *x, long rows, const void *residual, float scale, void *scratch, void *y) {
    const int xtype = m->xtype;
    float result[FOURBIT_TILE * MAX_ROWS];
    long first, last;
    const long most = tile_rows(m);
    if (tiles_are_best(m, rows)) {
        tiles_product(m, x, rows, NO_GATE, scratch, y);
        if (residual) add_residual(xtype, residual, scale, rows * m->out, y);
        return;
    }
    const void *packed = prepare(m, x, rows, scratch);
    share(m->out, most, &first, &last);
    for (long o = first; o < last; o += most) {
        long count = last - o < most ? last - o : most;
        outputs(m, x, packed, rows, o, count, result);
        for (long r = 0; r < count; r++)
            for (long n = 0; n < rows; n++) {
                float s = result[r * rows + n];
                if (residual) s = load1(xtype, residual, n * m->out + o + r) + scale * s;
                store1(xtype, y, n * m->out + o + r, s);
            }
    }
}

// y (rows, width) = activation(the first half of x (rows, 2 * width)) * the second. Called by every thread of a team.
void gate(int type, const void *x, long rows, long width, int activation, void *y) {
#pragma omp for
    for (long n = 0; n < rows; n++) {
        const void *gates = at(x, type, 2 * n * width), *ups = at(gates, type, width);
        void *to = (void *)at(y, type, n * width);
        long i = 0;
        for (; i + LANES <= width; i += LANES) {
            store(type, to, i, activate(activation, load(type, gates, i))); // rounded, as torch does
            store(type, to, i, load(type, to, i) * load(type, ups, i));
        }
        for (; i < width; i++) {
            const float a = activate(activation, splat(load1(type, gates, i)))[0];
            store1(type, to, i, rounded(type, a) * load1(type, ups, i));
        }
    }
}

// y (rows, out / 2) = activation(x G^T) * (x U^T), where W is G above U.
void gated_product(const Matrix *m, const void *x, long rows, int activation, void *scratch, void *y) {
    const int xtype = m->xtype;
    float gate[FOURBIT_TILE * MAX_ROWS], up[FOURBIT_TILE * MAX_ROWS], product[FOURBIT_TILE * MAX_ROWS];
    long first, last;
    const long width = m->out / 2, most = tile_rows(m);
    if (tiles_are_best(m, rows)) {
        tiles_product(m, x, rows, activation, scratch, y);
        return;
    }
    memset(gate, 0, sizeof gate);
    const void *packed = prepare(m, x, rows, scratch);
    share(width, most, &first, &last);
    for (long o = first; o < last; o += most) {
        long count = last - o < most ? last - o : most;
        outputs(m, x, packed, rows, o, count, gate);
        outputs(m, x, packed, rows, o + width, count, up);
        for (long i = 0; i < count * rows; i += LANES) {
            vec a = activate(activation, load(F32, gate, i));
            store(F32, product, i, a);
        }
        for (long r = 0; r < count; r++)
            for (long n = 0; n < rows; n++)
                store1(xtype, y, n * width + o + r, rounded(xtype, product[r * rows + n]) * up[r * rows + n]);
    }
}
