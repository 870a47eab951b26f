// Panels of weights for the matrix unit: 32 rows, as tiles one above another, then those of the next 32 columns.
#pragma once
#include "tiles.h"

#define PANEL 32 // rows of weights that a thread works on at a time, and of x that they meet at once

#if TILES
// Of 4 bits: a pair of columns of 16 rows, of which `codes` holds the numbers in 16 bits each, times the rows' scales.
INLINE ivec dequantized(__m512i codes, __m512 table, vec scale) {
    const vec even = (vec)_mm512_permutexvar_ps(codes, table); // which takes the low four bits
    const vec odd = (vec)_mm512_permutexvar_ps(_mm512_srli_epi32(codes, 16), table);
    return pairs_of(even * scale, odd * scale);
}

INLINE void pack_fourbit(const Matrix *m, long o, long k, long depth, uint16_t *panel) {
    const __m512 table = _mm512_loadu_ps(m->table);
    const uint8_t *w = (const uint8_t *)m->weight + o * m->in / 2;
    for (long j = k; j < k + depth && j < m->in; j += DEPTH, panel += 2 * SIDE * DEPTH) {
        const uint16_t *scales = (const uint16_t *)m->scales + (o * m->in / 64 + j / 64 * 32);
        const vec first = load(BF16, scales, 0), second = load(BF16, scales, LANES);
        ivec upper[SIDE], lower[SIDE];
        for (int p = 0; p < SIDE; p++) {
            __m512i codes = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(w + (j + 2 * p) * 16)));
            upper[p] = dequantized(codes, table, first);
            lower[p] = dequantized(_mm512_srli_epi16(codes, 4), table, second);
        }
        transpose(upper);
        transpose(lower);
        memcpy(panel, upper, sizeof upper);
        memcpy(panel + SIDE * DEPTH, lower, sizeof lower);
    }
}

// 32 numbers of a row of weights, zeros where it ends.
INLINE void pack_row(const Matrix *m, long r, long k, uint16_t *to) {
    const void *row = at(m->weight, m->type, r * m->in + k);
    const long left = r < m->out ? m->in - k : 0;
    if (left >= DEPTH && m->type == BF16) memcpy(to, row, DEPTH * sizeof(uint16_t));
    else if (left >= DEPTH)
        for (int i = 0; i < DEPTH; i += LANES) store(BF16, to, i, load(INT8, row, i));
    else
        for (long i = 0; i < DEPTH; i++) store1(BF16, to, i, i < left ? load1(m->type, row, i) : 0);
}

// Rows o to o + 31 of weights and `depth` columns from k on: two tiles above each other, then those of the next columns.
INLINE void pack_weights(const Matrix *m, long o, long k, long depth, uint16_t *panel) {
    if (m->type == FOURBIT) {
        pack_fourbit(m, o, k, depth, panel);
        return;
    }
    for (long j = 0; j < depth; j += 4 * DEPTH) // as many lines of a row at a time as the processor fetches together
        for (long r = 0; r < PANEL; r++)
            for (long i = j; i < j + 4 * DEPTH && i < depth; i += DEPTH)
                pack_row(m, o + r, k + i, panel + i * PANEL + r * DEPTH);
}

// What to fetch of a panel: rows from o on and `step` columns from j on, in so many turns.
INLINE Ahead next_panel(const Matrix *m, long o, long j, long step, long turns) {
    const long columns = m->in - j < step ? m->in - j : step;
    Ahead a = {.stride = m->in * size_of(m->type), .row_bytes = columns * size_of(m->type), .rows = PANEL};
    a.line = (const char *)at(m->weight, m->type, o * m->in + j);
    if (m->type == FOURBIT) {
        a.line = (const char *)m->weight + o * m->in / 2 + j * 16;
        a.row_bytes = columns * 16, a.rows = 1;
    }
    a.end = a.line + a.row_bytes;
    a.at_once = ceil_div(a.rows * a.row_bytes, 64 * turns);
    return a;
}
#endif
