// Products with weights of 4 bits as bitsandbytes lays them out for CPUs (see `mygpt.quantize.kernels`): groups of 32
// rows of weights, and of each pair of columns in turn 32 bytes, whose lower halves are the pairs of the group's rows
// 0 to 15, and whose upper halves those of rows 16 to 31. A look-up makes sixteen pairs of bfloat16 at once of either,
// which one instruction multiplies with a pair of x.
#include "vectors.h"

#ifdef __AVX512BF16__
#define BLOCK 64 // columns to a scale
#define MOST 4   // rows of x at a time: as many sums as the registers hold

// result[r * rows + n]: the 32 rows of weights from o on times rows n to n + N - 1 of x (rows, in) bfloat16.
INLINE void group(const int N, const Matrix *m, const uint16_t *x, long rows, long o, float *result) {
    const int chains = N == 1 ? 4 : N == 2 ? 2 : 1; // sums of a row: else each addition would wait for the last
    const __m256i values = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(m->table));
    const __m512i table = _mm512_broadcast_i64x4(values); // twice: a look-up takes the low five bits
    const uint8_t *w = (const uint8_t *)m->weight + o * m->in / 2;
    vec totals[2][MOST];
    for (int half = 0; half < 2; half++)
        for (int n = 0; n < N; n++) totals[half][n] = splat(0);
    for (long i = 0; i < m->in; i += BLOCK) {
        const uint16_t *scales = (const uint16_t *)m->scales + i / BLOCK * m->out + o;
        __builtin_prefetch(scales + 32, 0, 3); // those of the next group: each block's lie far apart
        __m512 acc[4][2][MOST];
        for (int c = 0; c < chains; c++)
            for (int n = 0; n < N; n++) acc[c][0][n] = acc[c][1][n] = _mm512_setzero_ps();
        for (long j = i; j < i + BLOCK; j += 2 * chains)
#pragma GCC unroll 4
            for (int c = 0; c < chains; c++) {
                const uint8_t *pair = w + (j + 2 * c) * 16;
                __builtin_prefetch(pair + 2048, 0, 3);
                __m512i low = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)pair));
                __m512bh first = (__m512bh)_mm512_permutexvar_epi16(low, table);
                __m512bh second = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(low, 4), table);
                for (int n = 0; n < N; n++) {
                    int32_t both;
                    memcpy(&both, x + n * m->in + j + 2 * c, sizeof both);
                    __m512bh xs = (__m512bh)_mm512_set1_epi32(both);
                    acc[c][0][n] = _mm512_dpbf16_ps(acc[c][0][n], first, xs);
                    acc[c][1][n] = _mm512_dpbf16_ps(acc[c][1][n], second, xs);
                }
            }
        for (int half = 0; half < 2; half++)
            for (int n = 0; n < N; n++) {
                vec block = (vec)acc[0][half][n];
                for (int c = 1; c < chains; c++) block += (vec)acc[c][half][n];
                totals[half][n] += block * load(BF16, scales, half * LANES);
            }
    }
    for (int r = 0; r < 32; r++)
        for (int n = 0; n < N; n++) result[r * rows + n] = totals[r / LANES][n][r % LANES];
}

void fourbit_tile(const Matrix *m, const void *x, long rows, long o, float *result) {
    for (long n = 0, step; n < rows; n += step) {
        const uint16_t *xs = (const uint16_t *)x + n * m->in;
        step = rows - n >= 4 ? 4 : rows - n >= 2 ? 2 : 1;
        if (step == 4) group(4, m, xs, rows, o, result + n);
        else if (step == 2) group(2, m, xs, rows, o, result + n);
        else group(1, m, xs, rows, o, result + n);
    }
}
#else
void fourbit_tile(const Matrix *m, const void *x, long rows, long o, float *result) {} // `mygpt_has_fourbit` says so
#endif
