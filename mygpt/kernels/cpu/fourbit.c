// Products with weights of 4 bits as bitsandbytes lays them out for CPUs (see `mygpt.quantize.matmul`): groups of 32
// rows of weights, and of each pair of columns in turn 32 bytes, whose lower halves are the pairs of the group's rows
// 0 to 15, and whose upper halves those of rows 16 to 31. A look-up makes sixteen pairs of numbers at once of either,
// which one instruction multiplies with a pair of x.
//
// In whole numbers, for an instruction that multiplies pairs of bfloat16 takes 2.6 times as long. x loses what lies 2^-13
// below the largest of its 64 neighbours, the table 2^-14: a tenth of what bfloat16 itself loses.
#include "kernels.h"

#if HAS_FOURBIT
#define BLOCK 64   // columns to a scale, of the weights and of x
#define MOST 4     // rows of x at a time: as many sums as the registers hold
#define LEVEL 8191 // what 1 becomes in the table,
#define LARGEST 4095 // and the largest number of a block of x: 64 of their products fit into 32 bits

long fourbit_scratch(long in) { return in * sizeof(int16_t) + in / BLOCK * sizeof(float); }

static float *units(const void *packed, long rows, long in) { return (float *)((int16_t *)packed + rows * in); }

// One block of x to whole numbers; returns what 1 stands for.
static float to_whole(const uint16_t *x, int16_t *whole) {
    vec most = splat(0), spoilt = splat(0);
    for (int i = 0; i < BLOCK; i += LANES) {
        vec v = load(BF16, x, i);
        most = (vec)_mm512_max_ps((__m512)most, _mm512_abs_ps((__m512)v));
        spoilt += v * 0; // not a number where one of x is not, or infinite
    }
    const float largest = _mm512_reduce_max_ps((__m512)most), scale = largest > 1e-30f ? LARGEST / largest : 0;
    for (int i = 0; i < BLOCK; i += LANES) {
        __m512i v = _mm512_cvtps_epi32((__m512)(load(BF16, x, i) * scale));
        _mm256_storeu_si256((__m256i *)(whole + i), _mm512_cvtepi32_epi16(v));
    }
    return largest / LARGEST / LEVEL + sum(spoilt);
}

void fourbit_prepare(const void *x, long rows, long in, void *packed) {
    const long blocks = rows * in / BLOCK;
#pragma omp for
    for (long b = 0; b < blocks; b++)
        units(packed, rows, in)[b] = to_whole((const uint16_t *)x + b * BLOCK, (int16_t *)packed + b * BLOCK);
}

// result[r * rows + n]: the 32 rows of weights from o on times rows n to n + N - 1 of x, (rows, in) whole numbers.
INLINE void group(const int N, const Matrix *m, const int16_t *x, const float *units, long rows, long o, float *result) {
    vec rounded; // to bfloat16 first, as in bitsandbytes' kernel: both are to give the same
    memcpy(&rounded, m->table, sizeof rounded);
    rounded = (vec)(((uvec)rounded + 0x7fff + (((uvec)rounded >> 16) & 1)) & 0xffff0000);
    const __m512i levels = _mm512_cvtps_epi32((__m512)(rounded * LEVEL));
    const __m512i table = _mm512_broadcast_i64x4(_mm512_cvtepi32_epi16(levels)); // twice: look-ups take five bits
    const uint8_t *w = (const uint8_t *)m->weight + o * m->in / 2;
    vec totals[2][MOST];
    for (int half = 0; half < 2; half++)
        for (int n = 0; n < N; n++) totals[half][n] = splat(0);
    for (long i = 0; i < m->in; i += BLOCK) {
        const uint16_t *scales = (const uint16_t *)m->scales + (o * m->in / BLOCK + i / 2);
        __builtin_prefetch(scales + 512, 0, 3);
        __m512i acc[2][MOST];
        for (int n = 0; n < N; n++) acc[0][n] = acc[1][n] = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (long j = i; j < i + BLOCK; j += 2) {
            const uint8_t *pair = w + j * 16;
            if (j % 4 == 0) __builtin_prefetch(pair + 4096, 0, 3);
            __m512i low = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)pair));
            __m512i first = _mm512_permutexvar_epi16(low, table);
            __m512i second = _mm512_permutexvar_epi16(_mm512_srli_epi16(low, 4), table);
            for (int n = 0; n < N; n++) {
                int32_t both;
                memcpy(&both, x + n * m->in + j, sizeof both);
                __m512i xs = _mm512_set1_epi32(both);
                acc[0][n] = _mm512_dpwssd_epi32(acc[0][n], first, xs);
                acc[1][n] = _mm512_dpwssd_epi32(acc[1][n], second, xs);
            }
        }
        for (int half = 0; half < 2; half++) {
            vec scale = load(BF16, scales, half * LANES);
            for (int n = 0; n < N; n++)
                totals[half][n] += (vec)_mm512_cvtepi32_ps(acc[half][n]) * (scale * units[(n * m->in + i) / BLOCK]);
        }
    }
    for (int r = 0; r < 32; r++)
        for (int n = 0; n < N; n++) result[r * rows + n] = totals[r / LANES][n][r % LANES];
}

void fourbit_tile(const Matrix *m, const void *packed, long rows, long o, float *result) {
    for (long n = 0, step; n < rows; n += step) {
        const int16_t *x = (const int16_t *)packed + n * m->in;
        const float *unit = units(packed, rows, m->in) + n * m->in / BLOCK;
        step = rows - n >= 4 ? 4 : rows - n >= 2 ? 2 : 1;
        if (step == 4) group(4, m, x, unit, rows, o, result + n);
        else if (step == 2) group(2, m, x, unit, rows, o, result + n);
        else group(1, m, x, unit, rows, o, result + n);
    }
}
#else
long fourbit_scratch(long in) { return 0; }
void fourbit_prepare(const void *x, long rows, long in, void *packed) {}
void fourbit_tile(const Matrix *m, const void *packed, long rows, long o, float *result) {} // `mygpt_has_fourbit` says so
#endif
