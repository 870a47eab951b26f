// Products of many rows of bfloat16 x by the matrix unit (AMX), which multiplies tiles of 16 rows and 32 columns.
//
// The weights are its first factor, whose layout is theirs, so a panel of 32 rows of them needs no more than to be copied
// (4 and 8 bits: to be dequantized) to where tiles lie end to end. x is the second, in pairs of columns.
#include "vectors.h"

#define SIDE 16          // rows of a tile, and numbers of 32 bits in each
#define DEPTH 32         // bfloat16 numbers in a row of a tile
#define PANEL 32         // rows of weights that a thread works on at a time, and of x that they meet at once
#define MOST_DEPTH 1024  // columns of a panel
#define MOST_ROWS 512    // of x: with so many columns of each they stay in a core's second cache, beside a panel

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>

// Row i, lane j becomes what was row j, lane i.
static void transpose(ivec x[SIDE]) {
#define SWAP(width)                                                                                                    \
    for (int i = 0; i < SIDE; i++)                                                                                     \
        if (!(i & width)) {                                                                                            \
            ivec a = x[i], b = x[i + width];                                                                           \
            x[i] = __builtin_shuffle(a, b, FIRST_OF(width));                                                           \
            x[i + width] = __builtin_shuffle(a, b, FIRST_OF(width) + width);                                           \
        }
    SWAP(8) SWAP(4) SWAP(2) SWAP(1)
}

enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; // of arch_prctl

int has_tiles(void) { return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0; }

static void configure(void) {
    struct {
        uint8_t palette, start, unused[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } all = {.palette = 1};
    for (int i = 0; i < 8; i++) all.row_bytes[i] = 64, all.rows[i] = SIDE;
    _tile_loadconfig(&all);
}

// What a product is cut into: `rows` of x (a multiple of PANEL) by `depth` columns (of DEPTH) at a time.
typedef struct {
    long rows, depth, chunks;
} Cut;

static long even_part(long size, long most, long unit) {
    long parts = (size + most - 1) / most;
    return ((size + parts - 1) / parts + unit - 1) / unit * unit;
}

static Cut cut(const Matrix *m, long rows) {
    Cut c = {even_part(rows, MOST_ROWS, PANEL), even_part(m->in, MOST_DEPTH, 2 * DEPTH), 0};
    c.chunks = (m->in + c.depth - 1) / c.depth;
    return c;
}

static long sums_bytes(const Matrix *m, Cut c) {
    return c.chunks > 1 ? (m->out + PANEL - 1) / PANEL * PANEL * c.rows * sizeof(float) : 0;
}

long tiles_scratch(const Matrix *m, long rows, int threads) {
    const Cut c = cut(m, rows);
    return sums_bytes(m, c) + (c.rows + threads * PANEL) * c.depth * sizeof(uint16_t);
}

// Tile of 16 rows of x from row n on, and 32 columns from k on: pairs of columns by rows. Zeros where x ends.
static void pack_x(const uint16_t *x, long rows, long in, long n, long k, uint16_t *tile) {
    ivec pairs[SIDE];
    for (int i = 0; i < SIDE; i++) {
        pairs[i] = (ivec){};
        const long left = in - k < DEPTH ? in - k : DEPTH;
        if (n + i < rows && left > 0) memcpy(&pairs[i], x + (n + i) * in + k, left * sizeof(uint16_t));
    }
    transpose(pairs);
    memcpy(tile, pairs, sizeof pairs);
}

// Of 4 bits: a pair of columns of 16 rows, of which `codes` holds the numbers in 16 bits each, times the rows' scales.
INLINE ivec dequantized(__m512i codes, __m512i table, vec scale) {
    uvec pair = (uvec)_mm512_permutexvar_epi16(codes, table);
    __m512bh both = _mm512_cvtne2ps_pbh((__m512)((vec)(pair & 0xffff0000) * scale), (__m512)((vec)(pair << 16) * scale));
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                           20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (ivec)_mm512_permutexvar_epi16(order, (__m512i)both);
}

static void pack_fourbit(const Matrix *m, long o, long k, long depth, uint16_t *panel) {
    const __m256i values = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(m->table));
    const __m512i table = _mm512_broadcast_i64x4(values); // twice: a look-up takes the low five bits
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
static void pack_weights(const Matrix *m, long o, long k, long depth, uint16_t *panel) {
    if (m->type == FOURBIT) {
        pack_fourbit(m, o, k, depth, panel);
        return;
    }
    for (long j = 0; j < depth; j += 4 * DEPTH) // as many lines of a row at a time as the processor fetches together
        for (long r = 0; r < PANEL; r++)
            for (long i = j; i < j + 4 * DEPTH && i < depth; i += DEPTH)
                pack_row(m, o + r, k + i, panel + i * PANEL + r * DEPTH);
}

// Where a thread's next panel lies in memory; fetched bit by bit while it works on this one.
typedef struct {
    const char *line, *end; // of a row
    long stride, row_bytes, rows;
} Ahead;

static Ahead next_panel(const Matrix *m, long o, long k, long depth) {
    const long columns = m->in - k < depth ? m->in - k : depth; // none behind the last
    Ahead a = {.stride = m->in * size_of(m->type), .row_bytes = columns * size_of(m->type), .rows = PANEL};
    a.line = (const char *)at(m->weight, m->type, o * m->in + k);
    if (m->type == FOURBIT) {
        a.line = (const char *)m->weight + o * m->in / 2 + k * 16;
        a.row_bytes = columns * 16, a.rows = 1;
    }
    a.end = a.line + a.row_bytes;
    if (columns <= 0) a.rows = 0;
    return a;
}

INLINE void fetch_lines(Ahead *a, long lines) {
    for (; lines > 0 && a->rows > 0; lines--) {
        __builtin_prefetch(a->line, 0, 2);
        a->line += 64;
        if (a->line >= a->end && --a->rows > 0) {
            a->end += a->stride;
            a->line = a->end - a->row_bytes;
        }
    }
}

// 32 rows of weights times 32 of x; `sums` are four tiles, from which it goes on or where it begins.
static void four_tiles(const uint16_t *panel, const uint16_t *x0, const uint16_t *x1, long steps, int begin, Ahead *ahead,
                       long lines, float *sums) {
    if (begin) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, sums, 64);
        _tile_loadd(1, sums + 256, 64);
        _tile_loadd(2, sums + 512, 64);
        _tile_loadd(3, sums + 768, 64);
    }
    for (long s = 0; s < steps; s++) {
        _tile_loadd(4, panel + s * 2 * SIDE * DEPTH, 64);
        _tile_loadd(6, x0 + s * SIDE * DEPTH, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, panel + (s * 2 + 1) * SIDE * DEPTH, 64);
        _tile_dpbf16ps(1, 5, 6);
        _tile_loadd(7, x1 + s * SIDE * DEPTH, 64);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);

    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    _tile_stored(2, sums + 512, 64);
    _tile_stored(3, sums + 768, 64);
}

INLINE vec load_some(const uint16_t *x, long i, long count) {
    uint16_t some[LANES] = {0};
    memcpy(some, x + i, count * sizeof(uint16_t));
    return load(BF16, some, 0);
}

// Two tiles of sums (16 rows of weights each, by 16 of x) to y (rows, out), with scales and bias, rounded as torch does.
static void finish(const Matrix *m, const float *tiles, long rows, long o, long n, uint16_t *y) {
    ivec sums[2][SIDE];
    memcpy(sums, tiles, sizeof sums);
    transpose(sums[0]);
    transpose(sums[1]);
    vec scale[2], bias[2];
    long count[2];
    for (int h = 0; h < 2; h++) {
        const long left = m->out - o - h * SIDE;
        count[h] = left < 0 ? 0 : left < SIDE ? left : SIDE;
        scale[h] = m->type == INT8 ? load_some(m->scales, o + h * SIDE, count[h]) : splat(1);
        bias[h] = m->bias ? load_some(m->bias, o + h * SIDE, count[h]) : splat(0);
    }
    for (long i = 0; i < SIDE && n + i < rows; i++)
        for (int h = 0; h < 2; h++) {
            uint16_t part[LANES], *end = y + (n + i) * m->out + o + h * SIDE, *to = count[h] == SIDE ? end : part;
            store(BF16, to, 0, (vec)sums[h][i] * scale[h]);
            if (m->bias) store(BF16, to, 0, load(BF16, to, 0) + bias[h]);
            if (to == part) memcpy(end, part, count[h] * sizeof(uint16_t));
        }
}

// y (rows, out) = x (rows, in) W^T + bias, all bfloat16. Called by every thread of a team.
void tiles_product(const Matrix *m, const uint16_t *x, long rows, void *scratch, uint16_t *y) {
    const Cut c = cut(m, rows);
    float *sums = scratch, own[4 * SIDE * SIDE] __attribute__((aligned(64)));
    uint16_t *packed = (uint16_t *)((char *)scratch + sums_bytes(m, c));
    uint16_t *panel = packed + (c.rows + omp_get_thread_num() * PANEL) * c.depth;
    const long pairs = c.rows / PANEL, lines = PANEL / pairs + 1; // of the next panel, in each step
    long first, last;
    share(m->out, PANEL, &first, &last);
    configure();
    for (long n = 0; n < rows; n += c.rows)
        for (long chunk = 0; chunk < c.chunks; chunk++) {
            const long k = chunk * c.depth, depth = m->in - k < c.depth ? m->in - k : c.depth;
            const long steps = (depth + DEPTH - 1) / DEPTH;
#pragma omp for
            for (long i = 0; i < 2 * pairs * steps; i++) { // tiles of 16 rows, all columns of each end to end
                uint16_t *tile = packed + (i / steps * c.depth + i % steps * DEPTH) * SIDE;
                pack_x(x, rows, m->in, n + i / steps * SIDE, k + i % steps * DEPTH, tile);
            }
            for (long o = first; o < last; o += PANEL) {
                pack_weights(m, o, k, depth, panel);
                Ahead ahead = o + PANEL < last ? next_panel(m, o + PANEL, k, depth) : next_panel(m, first, k + depth, depth);
                for (long p = 0; p < pairs && n + p * PANEL < rows; p++) {
                    const uint16_t *x0 = packed + p * PANEL * c.depth, *x1 = x0 + SIDE * c.depth;
                    float *tiles = c.chunks > 1 ? sums + (o * c.rows + p * PANEL * PANEL) : own;
                    four_tiles(panel, x0, x1, steps, chunk == 0, &ahead, lines, tiles);
                    for (int h = 0; h < 2 && chunk == c.chunks - 1; h++)
                        finish(m, tiles + h * 2 * SIDE * SIDE, rows, o, n + p * PANEL + h * SIDE, y);
                }
            }
#pragma omp barrier // before the next columns of x take the place of these
        }
    _tile_release();
}
#else
int has_tiles(void) { return 0; }
long tiles_scratch(const Matrix *m, long rows, int threads) { return 0; }
void tiles_product(const Matrix *m, const uint16_t *x, long rows, void *scratch, uint16_t *y) {}
#endif
