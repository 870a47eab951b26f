// Products of bfloat16 x with int8 weights in whole numbers: x becomes fixed point in three digits of 8 bits, of which an
// instruction multiplies 64 at once, where as floats it would take three for each 16. Numbers of x down to the largest
// times 2^-14 lose nothing by that, smaller ones what lies 2^-23 below the largest; and the sums are exact.
#include "kernels.h"

#if defined __AVX512VNNI__ && defined __AVX512BW__
#define DIGITS 3
#define BITS 22 // of the largest number of x, beside its sign: the highest digit is at most 64 then

typedef struct {
    float unit;            // what 1 of fixed point stands for
    int32_t sums[DIGITS];  // of the digits
    int8_t pad[48];        // so that the digits begin a cache line
} Fixed;                   // and then (DIGITS, padded in) int8, the lowest digits first

static long padded(long in) { return (in + 63) / 64 * 64; }
static long row_bytes(long in) { return sizeof(Fixed) + DIGITS * padded(in); }

long int8_scratch(long in) { return row_bytes(in); }

static void to_fixed(const uint16_t *x, long in, Fixed *fixed) {
    float most = 0, spoilt = 0;
    for (long i = 0; i < in; i++) {
        float v = load1(BF16, x, i);
        most = fabsf(v) > most ? fabsf(v) : most;
        spoilt += v * 0; // not a number where one of x is not, or infinite
    }
    int exponent = 0;
    if (spoilt == 0) frexpf(most, &exponent); // most < 2^exponent
    if (exponent < -100) exponent = -100;
    fixed->unit = ldexpf(1, exponent - BITS) + spoilt;
    const float scale = spoilt == 0 ? ldexpf(1, BITS - exponent) : 0;
    int8_t *digits = (int8_t *)(fixed + 1);
    int32_t low = 0, middle = 0, high = 0;
    const long end = padded(in);
    for (long i = 0; i < end; i++) {
        int32_t v = i < in ? (int32_t)rintf(load1(BF16, x, i) * scale) : 0;
        int8_t a = (int8_t)v, b, c;
        v = (v - a) >> 8;
        b = (int8_t)v;
        c = (int8_t)((v - b) >> 8);
        digits[i] = a, digits[end + i] = b, digits[2 * end + i] = c;
        low += a, middle += b, high += c;
    }
    fixed->sums[0] = low, fixed->sums[1] = middle, fixed->sums[2] = high;
}

void int8_prepare(const void *x, long rows, long in, void *packed) {
#pragma omp for
    for (long n = 0; n < rows; n++)
        to_fixed((const uint16_t *)x + n * in, in, (Fixed *)((char *)packed + n * row_bytes(in)));
}

// sums[r]: rows r of w (R, in) times a row of x, without the weights' scales.
INLINE void dots8(const int R, const int8_t *w, const Fixed *fixed, long in, float *sums) {
    const __m512i sign = _mm512_set1_epi8(-128);
    const int8_t *digits = (const int8_t *)(fixed + 1);
    const long end = padded(in), ahead = R * in <= 16384 ? R * in : 1024;
    __m512i acc[4][DIGITS];
    for (int r = 0; r < R; r++)
        for (int d = 0; d < DIGITS; d++) acc[r][d] = _mm512_setzero_si512();
    for (long i = 0; i < in; i += 64) {
        const __mmask64 whole = in - i >= 64 ? ~0ULL : (1ULL << (in - i)) - 1;
        __m512i xs[DIGITS];
        for (int d = 0; d < DIGITS; d++) xs[d] = _mm512_loadu_si512(digits + d * end + i);
        for (int r = 0; r < R; r++) {
            __builtin_prefetch(w + r * in + i + ahead, 0, 3);
            // the instruction takes one factor without a sign: weights + 128
            __m512i ws = _mm512_xor_si512(_mm512_maskz_loadu_epi8(whole, w + r * in + i), sign);
            for (int d = 0; d < DIGITS; d++) acc[r][d] = _mm512_dpbusd_epi32(acc[r][d], ws, xs[d]);
        }
    }
    for (int r = 0; r < R; r++) {
        int64_t total = 0;
        for (int d = DIGITS - 1; d >= 0; d--)
            total = total * 256 + _mm512_reduce_add_epi32(acc[r][d]) - 128 * (int64_t)fixed->sums[d];
        sums[r] = total * fixed->unit;
    }
}

void int8_tile(const Matrix *m, const void *packed, long rows, long o, long count, float *result) {
    float sums[4];
    for (long n = 0; n < rows; n++) {
        const Fixed *fixed = (const Fixed *)((const char *)packed + n * row_bytes(m->in));
        const int8_t *w = (const int8_t *)m->weight + o * m->in;
        if (count == 4) dots8(4, w, fixed, m->in, sums);
        else
            for (long r = 0; r < count; r++) dots8(1, w + r * m->in, fixed, m->in, sums + r);
        for (long r = 0; r < count; r++) result[r * rows + n] = sums[r];
    }
}
#else
long int8_scratch(long in) { return 0; }
void int8_prepare(const void *x, long rows, long in, void *packed) {}
void int8_tile(const Matrix *m, const void *packed, long rows, long o, long count, float *result) {}
#endif
