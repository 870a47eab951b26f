// Sixteen numbers at a time, by GCC's vector extensions: the compiler maps them to what the CPU has.
#pragma once
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(64)));
typedef float half __attribute__((vector_size(32)));
typedef float quarter __attribute__((vector_size(16)));
typedef int32_t ivec __attribute__((vector_size(64)));
typedef uint32_t uvec __attribute__((vector_size(64)));
typedef uint16_t bf16vec __attribute__((vector_size(32)));
typedef int8_t i8vec __attribute__((vector_size(16)));
typedef int16_t i16vec __attribute__((vector_size(32)));

// How numbers lie in memory. structs.py has the same values, which are compared when the library is loaded.
enum { F32, BF16, INT8, FOURBIT };

INLINE long size_of(int type) { return type == F32 ? 4 : type == BF16 ? 2 : 1; }
INLINE const void *at(const void *p, int type, long i) { return (const char *)p + i * size_of(type); }
INLINE vec splat(float x) { return x - (vec){}; }

// Numbers i to i + 15 of an array, as float32.
INLINE vec load(int type, const void *p, long i) {
    if (type == BF16) {
        bf16vec x;
        memcpy(&x, (const uint16_t *)p + i, sizeof x);
        return (vec)(__builtin_convertvector(x, uvec) << 16);
    }
#ifdef __AVX512F__
    if (type == INT8) { // GCC 12 takes four times as many instructions
        __m128i x = _mm_loadu_si128((const __m128i *)((const int8_t *)p + i));
        return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x));
    }
#endif
    if (type == INT8) {
        i8vec x;
        memcpy(&x, (const int8_t *)p + i, sizeof x);
        ivec wide = __builtin_convertvector(__builtin_convertvector(x, i16vec), ivec);
        return __builtin_convertvector(wide, vec);
    }
    vec x;
    memcpy(&x, (const float *)p + i, sizeof x);
    return x;
}

INLINE float load1(int type, const void *p, long i) {
    if (type == INT8) return ((const int8_t *)p)[i];
    if (type == F32) return ((const float *)p)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)p)[i] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// Rounds to the nearest, ties to even, as torch does.
INLINE void store(int type, void *p, long i, vec x) {
    if (type == F32) {
        memcpy((float *)p + i, &x, sizeof x);
        return;
    }
#ifdef __AVX512BF16__
    __m256bh short_ = _mm512_cvtneps_pbh((__m512)x);
    memcpy((uint16_t *)p + i, &short_, sizeof short_);
    return;
#endif
    uvec bits = (uvec)x;
    uvec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    uvec nan = (uvec)(x != x);
    bf16vec y = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), bf16vec);
    memcpy((uint16_t *)p + i, &y, sizeof y);
}

INLINE void store1(int type, void *p, long i, float x) {
    if (type == F32) {
        ((float *)p)[i] = x;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    ((uint16_t *)p)[i] = x != x ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

INLINE float rounded(int type, float x) {
    uint16_t bits;
    if (type == F32) return x;
    store1(BF16, &bits, 0, x);
    return load1(BF16, &bits, 0);
}

INLINE float sum(vec x) {
    union { vec whole; half half[2]; } a = {x};
    union { half whole; quarter half[2]; } b = {a.half[0] + a.half[1]};
    quarter c = b.half[0] + b.half[1];
    return (c[0] + c[1]) + (c[2] + c[3]);
}

// Sums of lanes that lie `width` apart: of x where a lane's number lacks that bit, of y where it has it.
#define PAIRS(x, y, width) (__builtin_shuffle(x, y, FIRST_OF(width)) + __builtin_shuffle(x, y, FIRST_OF(width) + width))
#define FIRST_OF(width) (LANE + ((LANES - width) & ((LANE & width) != 0)))
#define LANE ((ivec){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})

// Lane i of the result is the sum of x[i], for 16 of them: a third of the instructions of as many `sum`s.
INLINE vec sum_each(vec *x) {
    for (int i = 0; i < 8; i++) x[i] = PAIRS(x[i], x[i + 8], 8);
    for (int i = 0; i < 4; i++) x[i] = PAIRS(x[i], x[i + 4], 4);
    for (int i = 0; i < 2; i++) x[i] = PAIRS(x[i], x[i + 2], 2);
    return PAIRS(x[0], x[1], 1);
}

// e^x to 2 units in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2].
INLINE vec exponential(vec x) {
    const float magic = 12582912; // 1.5 * 2^23: what is added to it is rounded to a whole number
    x = (vec)(((ivec)x & (x > -87.0f)) | ((ivec)splat(-87) & ~(x > -87.0f)));
    x = (vec)(((ivec)x & (x < 88.0f)) | ((ivec)splat(88) & ~(x < 88.0f)));
    vec shifted = x * 1.44269504f + magic;
    vec n = shifted - magic;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = splat(1.0f / 5040);
    const float taylor[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};
    for (int i = 0; i < 7; i++) p = p * r + taylor[i];
    return (vec)((ivec)p + ((ivec)shifted << 23)); // the low bits of `shifted` are those of n
}

// The part of `count` things, in whole groups, that falls to number t of n.
INLINE void share_of(long count, long group, long t, long n, long *first, long *last) {
    const long groups = (count + group - 1) / group;
    *first = groups * t / n * group;
    *last = groups * (t + 1) / n * group;
    if (*last > count) *last = count;
}

// The part that falls to the calling thread of its team (OpenMP's word for the threads of a parallel region).
INLINE void share(long count, long group, long *first, long *last) {
    share_of(count, group, omp_get_thread_num(), omp_get_num_threads(), first, last);
}

// What is between the two halves of a gated MLP. NO_GATE: the matrix is not a gate above what it is for.
enum { SILU, GELU_TANH, NO_GATE };

// x / (1 + e^-x), or the same of GELU by its tanh approximation.
INLINE vec activate(int activation, vec x) {
    vec t = activation == SILU ? x : 1.5957691216f * (x + 0.044715f * x * x * x);
    return x / (1 + exponential(-t));
}

// One head of q or k: dimension i turns together with i + width / 2, as `mygpt.model.rope.rotate` has it.
INLINE void rotate(int type, const void *x, const void *cos, const void *sin, long width, long dim, void *y) {
    const long half = width / 2;
    long i = 0;
    for (; i + LANES <= half; i += LANES) {
        const vec a = load(type, x, i), b = load(type, x, half + i);
        store(type, y, i, a * load(type, cos, i)); // rounded, as torch does
        store(type, y, half + i, b * load(type, cos, half + i));
        store(type, y, i, load(type, y, i) + b * load(type, sin, i));
        store(type, y, half + i, load(type, y, half + i) + a * load(type, sin, half + i));
    }
    for (; i < half; i++) {
        const float a = load1(type, x, i), b = load1(type, x, half + i);
        store1(type, y, i, rounded(type, a * load1(type, cos, i)) + b * load1(type, sin, i));
        store1(type, y, half + i, rounded(type, b * load1(type, cos, half + i)) + a * load1(type, sin, half + i));
    }
    memcpy((void *)at(y, type, width), at(x, type, width), (dim - width) * size_of(type));
}
