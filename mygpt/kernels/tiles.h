// The matrix unit (AMX): it adds to a tile of 16 x 16 sums the product of one of 16 rows of 32 bfloat16 numbers with one
// of 16 pairs of such rows, 16 columns each.
#pragma once
#include "vectors.h"

#define SIDE 16             // rows of a tile, and numbers of 32 bits in each
#define DEPTH 32            // bfloat16 numbers in a row of a tile
#define TILE (SIDE * DEPTH) // numbers

INLINE long ceil_div(long a, long b) { return (a + b - 1) / b; }

#ifdef __AMX_BF16__
// Each thread that multiplies tiles configures them first, and releases them at the end.
INLINE void configure(void) {
    struct {
        uint8_t palette, start, unused[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } all = {.palette = 1};
    for (int i = 0; i < 8; i++) all.row_bytes[i] = 64, all.rows[i] = SIDE;
    _tile_loadconfig(&all);
}

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
