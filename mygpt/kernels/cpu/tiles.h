// Products of tiles of bfloat16: one of 16 rows of 32 numbers with one of 16 pairs of such rows, 16 columns each, added to
// a tile of 16 x 16 sums. The matrix unit (AMX) does that in one instruction, AVX512-BF16 in 256.
#pragma once
#include "kernels.h"

#define SIDE 16             // rows of a tile, and numbers of 32 bits in each
#define DEPTH 32            // bfloat16 numbers in a row of a tile
#define TILE (SIDE * DEPTH) // numbers

INLINE long ceil_div(long a, long b) { return (a + b - 1) / b; }

// The factor that stands as it lies in memory: numbers between its rows, and between steps of 32 columns.
typedef struct {
    const uint16_t *at;
    long row, step;
} Rows;

// Sums of 32 rows by 32 columns: numbers between rows, and to the second 16 columns.
typedef struct {
    float *at;
    long row, beside;
} Square;

// What is read next, fetched bit by bit.
typedef struct {
    const char *line, *end; // of a row
    long stride, row_bytes, rows;
    long at_once; // lines
} Ahead;

INLINE void fetch(Ahead *a) {
    for (long i = 0; i < a->at_once && a->rows > 0; i++) {
        __builtin_prefetch(a->line, 0, 2);
        a->line += 64;
        if (a->line >= a->end && --a->rows > 0) {
            a->end += a->stride;
            a->line = a->end - a->row_bytes;
        }
    }
}

#ifdef __AMX_BF16__
#define TILES 1
#define UNIT 1 // the matrix unit multiplies them
#define COPIES 1 // it takes tiles of rows that lie far apart slowly

// y += left (32 rows) times right, (steps, 2) tiles, of which only the first count unless `both`; or y = that, to begin.
// With `copy`, left is copied there as (steps, 2) tiles on the way: while the unit works that costs less.
INLINE void add_square(const int both, Rows left, uint16_t *copy, const uint16_t *right, long steps, int begin, Square y,
                       Ahead *ahead) {
    const long low = SIDE * left.row, below = SIDE * y.row, stride = left.row * sizeof(uint16_t);
    const long sums = y.row * sizeof(float);
    __asm__ volatile("" ::: "memory"); // GCC does not know that tiles are loaded from memory
    if (begin) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, y.at, sums);
        _tile_loadd(1, y.at + below, sums);
        _tile_loadd(2, y.at + y.beside, sums);
        _tile_loadd(3, y.at + below + y.beside, sums);
    }
    for (long s = 0; s < steps; s++, left.at += left.step, right += 2 * TILE) {
        _tile_loadd(4, left.at, stride);
        if (copy) _tile_stored(4, copy + s * 2 * TILE, 64);
        _tile_stream_loadd(6, right, 64); // it is not to push `left` out of the first cache
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, left.at + low, stride);
        if (copy) _tile_stored(5, copy + s * 2 * TILE + TILE, 64);
        _tile_dpbf16ps(1, 5, 6);
        if (both) {
            _tile_stream_loadd(7, right + TILE, 64);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        if (ahead) fetch(ahead);
    }
    _tile_stored(0, y.at, sums);
    _tile_stored(1, y.at + below, sums);
    if (!both) return;
    _tile_stored(2, y.at + y.beside, sums);
    _tile_stored(3, y.at + below + y.beside, sums);
}

// Each thread that multiplies tiles configures them first, and releases them at the end.
INLINE void release(void) { _tile_release(); }
INLINE void configure(void) {
    struct {
        uint8_t palette, start, unused[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } all = {.palette = 1};
    for (int i = 0; i < 8; i++) all.row_bytes[i] = 64, all.rows[i] = SIDE;
    _tile_loadconfig(&all);
}

#elif defined __AVX512BF16__ && defined __AVX512BW__
#define TILES 1
#define UNIT 0
#define COPIES 0
#define AT_ONCE 8 // rows of `left`: with two columns each, as many sums as the registers hold

INLINE void add_square(const int both, Rows left, uint16_t *copy, const uint16_t *right, long steps, int begin, Square y,
                       Ahead *ahead) {
    for (long r = 0; r < 2 * SIDE; r += AT_ONCE, left.at += AT_ONCE * left.row, y.at += AT_ONCE * y.row) {
        vec sums[AT_ONCE][2];
        for (int i = 0; i < AT_ONCE; i++)
            for (int n = 0; n <= both; n++) sums[i][n] = begin ? splat(0) : load(F32, y.at, i * y.row + n * y.beside);
        for (long s = 0; s < steps; s++) {
            for (long k = 0; k < SIDE; k++) {
                const uint16_t *pairs = right + (s * 2 * SIDE + k) * DEPTH;
                const __m512bh first = (__m512bh)_mm512_loadu_si512(pairs);
                const __m512bh second = (__m512bh)_mm512_loadu_si512(pairs + TILE);
                for (int i = 0; i < AT_ONCE; i++) {
                    int32_t pair;
                    memcpy(&pair, left.at + i * left.row + s * left.step + 2 * k, sizeof pair);
                    const __m512bh w = (__m512bh)_mm512_set1_epi32(pair);
                    sums[i][0] = (vec)_mm512_dpbf16_ps((__m512)sums[i][0], w, first);
                    if (both) sums[i][1] = (vec)_mm512_dpbf16_ps((__m512)sums[i][1], w, second);
                }
            }
            if (ahead && r == 0) fetch(ahead);
        }
        for (int i = 0; i < AT_ONCE; i++)
            for (int n = 0; n <= both; n++) store(F32, y.at, i * y.row + n * y.beside, sums[i][n]);
    }
}

INLINE void release(void) {}
INLINE void configure(void) {}
#else
#define TILES 0
#define UNIT 0
#endif

#if TILES
// Row i, lane j becomes what was row j, lane i.
INLINE void transpose(ivec x[SIDE]) {
#define SWAP(width)                                                                                                    \
    for (int i = 0; i < SIDE; i++)                                                                                     \
        if (!(i & width)) {                                                                                            \
            ivec a = x[i], b = x[i + width];                                                                           \
            x[i] = __builtin_shuffle(a, b, FIRST_OF(width));                                                           \
            x[i + width] = __builtin_shuffle(a, b, FIRST_OF(width) + width);                                           \
        }
    SWAP(8) SWAP(4) SWAP(2) SWAP(1)
}

// Two rows of numbers to one of pairs of bfloat16.
INLINE ivec pairs_of(vec first, vec second) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                           20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (ivec)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
}

// Tile of 16 rows of x from row n on, and 32 columns from k on: pairs of columns by rows. Zeros where x ends.
INLINE void pack_x(const uint16_t *x, long rows, long in, long n, long k, uint16_t *tile) {
    ivec pairs[SIDE];
    const long left = in - k < DEPTH ? in - k : DEPTH;
    for (int i = 0; i < SIDE; i++) {
        const uint16_t *row = x + (n + i) * in + k;
        pairs[i] = (ivec){};
        if (n + i >= rows) continue;
        if (left == DEPTH) memcpy(&pairs[i], row, sizeof pairs[i]);
        else memcpy(&pairs[i], row, left * sizeof(uint16_t));
    }
    transpose(pairs);
    memcpy(tile, pairs, sizeof pairs);
}
#endif
