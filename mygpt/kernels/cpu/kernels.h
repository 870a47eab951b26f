// What the files here share: the structs that Python fills (structs.py has the same fields), and each other's functions.
//
// Most functions are called by every thread of a team, OpenMP's word for the threads of a parallel region, and share the
// work among them. exports.c opens the regions.
#pragma once
#include "vectors.h"

#define EXPORT __attribute__((visibility("default")))
#define MAX_ROWS 16 // of x, in products by other means than tiles
#define MAX_DIM 256 // of an attention head
#define MAX_GROUP 64 // query heads to a key head

typedef struct {
    const void *weight; // (out, in), rows end to end; FOURBIT: see fourbit.c, `out` is a multiple of 32
    const void *scales; // INT8: (out,) of x's type; FOURBIT: (out / 32, in / 64, 32) bfloat16
    const float *table; // FOURBIT: the 16 values
    const void *bias;   // (out,) of x's type, or NULL
    long in, out;
    long type;  // of the weight
    long xtype; // of x, which it is multiplied with, and of what comes out
} Matrix;

// y = x / rms(x) * (offset + weight), over `width` numbers.
typedef struct {
    const void *weight;
    long width, type;
    float eps, offset;
} Norm;

// New tokens of each of `batch` sequences, and their cache: (batch, kv_heads, capacity, dim), the last two dense.
typedef struct {
    const void *q, *k, *v; // (batch * tokens, heads, dim), rotated or to be rotated
    const void *cos, *sin; // (batch * tokens, rotated)
    void *keys, *values;
    const int64_t *positions; // (batch * tokens,)
    void *y;                  // (batch * tokens, heads, dim)
    long q_stride, k_stride, v_stride, sequence_stride, head_stride; // in numbers
    long batch, tokens, heads, kv_heads, dim, rotated;
    long slots; // the token at position p is kept in slot p modulo this
    long seen;  // no sequence has more slots filled than this, the new tokens included
    long type;
    float scale;
} AttentionArgs;

// Weights of `mygpt.model.gpt.Block`, with RMS norms and a gated MLP.
typedef struct {
    Matrix qkv, output, gate_up, down;
    Norm attention_norm, mlp_norm;
    long activation;
    float residual_scale;
} BlockWeights;

// The ranks (processes) of one machine that share a model, as one of them sees them.
typedef struct {
    char *memory;   // shared: see shm.c
    long rank, size;
    long capacity;  // bytes of a buffer, a multiple of 64
    long lost;      // a rank that ended before its time, or -1
    long crowded;   // whether the ranks have more threads than there are cores
    uint64_t count; // meetings so far
} GroupState;

// linear.c. With a residual (rows, out), y = residual + scale * the product.
void product(const Matrix *m, const void *x, long rows, const void *residual, float scale, void *scratch, void *y);
void gated_product(const Matrix *m, const void *x, long rows, int activation, void *scratch, void *y);
void gate(int type, const void *x, long rows, long width, int activation, void *y);
long product_scratch(const Matrix *m, long rows, int activation, int threads); // bytes

// int8.c: what makes a tile of a product of 8-bit weights, without their scales.
long int8_scratch(long in); // bytes for a row of x, bfloat16; 0: there is none for this CPU
void int8_prepare(const void *x, long rows, long in, void *packed);
void int8_tile(const Matrix *m, const void *packed, long rows, long o, long count, float *result);

// fourbit.c: the same of 4-bit weights.
#if defined __AVX512VNNI__ && defined __AVX512BW__
#define HAS_FOURBIT 1
#else
#define HAS_FOURBIT 0
#endif
long fourbit_scratch(long in);
void fourbit_prepare(const void *x, long rows, long in, void *packed);
void fourbit_tile(const Matrix *m, const void *packed, long rows, long o, float *result);

// tiles.c: products of many rows of bfloat16.
enum { NO_TILES, BY_UNIT, BY_VECTORS }; // what multiplies tiles: the matrix unit (AMX), or AVX512-BF16
int tiles_by(void); // one of these; asks the system to let us use the matrix unit
int tiles_are_best(const Matrix *m, long rows);
long tiles_scratch(const Matrix *m, long rows, int activation, int threads); // bytes
void tiles_product(const Matrix *m, const uint16_t *x, long rows, int activation, void *scratch, uint16_t *y);

// attention.c: of one new token of each sequence. attend_many.c: of any number, where there are tiles.
long attention_scratch(const AttentionArgs *a); // bytes
void attention(const AttentionArgs *a, float *scratch);
long attend_many_scratch(const AttentionArgs *a, int threads); // bytes
void attend_many(const AttentionArgs *a, char *scratch);

// block.c
long block_scratch(const BlockWeights *w, const AttentionArgs *a, int threads); // bytes
void block(const BlockWeights *w, AttentionArgs *a, const void *x, char *scratch, void *y);

void norm(const Norm *n, const void *x, long rows, void *y);
