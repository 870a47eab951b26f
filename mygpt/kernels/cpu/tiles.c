// Products of many rows of bfloat16 x by the matrix unit (AMX), which multiplies tiles of 16 rows and 32 columns.
//
// The weights are its first factor, whose layout is theirs; x is the second, in pairs of columns. What is read most
// stays nearest: a block of x in a core's second cache while all weights pass by it, a panel of 32 rows of weights in the
// first cache (copied there end to end; 4 and 8 bits: dequantized) while the rows of the block pass by it, and the sums
// of four tiles in registers. The next panel is fetched from memory meanwhile.
//
// It pays: prompts of a 1.07 B model ran 1.61 times as fast as by torch at 64 tokens, 1.16 at 400, 1.24 at 1000; and 1.19,
// 1.16, 1.25 times as fast as by weights packed for oneDNN, which take the memory twice (Xeon with AMX, 2 cores).
#include "panels.h"

#define SUMS (4 * SIDE * SIDE)
#define MOST_STEP 640         // columns of a panel: 40 KiB
#define MOST_BLOCK (1L << 19) // numbers of a block of x: 1 MiB
#define MOST_CACHED (1L << 19) // numbers of y
#define MOST_TILES 16         // of 16 rows, in a block of x; with quantized weights twice that, for each block takes
                              // dequantizing them once more

#if UNIT
#include <sys/syscall.h>
#include <unistd.h>

enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; // of arch_prctl

static int allowed;

int tiles_by(void) {
    allowed = syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
    return allowed ? BY_UNIT : NO_TILES;
}

int tiles_are_best(const Matrix *m, long rows) {
    return allowed && m->xtype == BF16 && rows > (m->type == BF16 ? 2 : m->type == INT8 ? 8 : 12);
}
#else
int tiles_by(void) { return TILES ? BY_VECTORS : NO_TILES; }
int tiles_are_best(const Matrix *m, long rows) { return TILES && m->xtype == BF16 && rows > MAX_ROWS; }
#endif

#if TILES

// The size of equal parts of which none is above `most`, in whole units.
static long even_part(long size, long most, long unit) {
    long parts = ceil_div(size, most > unit ? most : unit);
    return ceil_div(ceil_div(size, parts), unit) * unit;
}

// What a product is cut into.
typedef struct {
    long tiles;  // of 16 rows of x,
    long blocks; // which are cut into as many blocks,
    long parts;  // so many of which are worked on at once, each by as many threads
    long pairs;  // of tiles in the largest block
    long depth;  // columns of a block
    long step;   // columns of a panel
    long halves; // 2 where a gate stands above what it is for
    long width;  // rows of weights in each
    int streams; // whether y is so large that it is written past the caches
} Cut;

static Cut cut(const Matrix *m, long rows, int activation, int threads) {
    Cut c = {.tiles = ceil_div(rows, SIDE), .parts = 1, .halves = activation == NO_GATE ? 1 : 2};
    c.width = m->out / c.halves;
    c.streams = rows * c.width >= MOST_CACHED;
    const long needed = ceil_div(c.tiles, m->type == BF16 ? MOST_TILES : 2 * MOST_TILES);
    // Parts are less equal than panels, but all of them need the same weights at the same time.
    for (long parts = 2; parts <= needed && parts <= threads && UNIT; parts++)
        if (threads % parts == 0) c.parts = parts;
    c.blocks = ceil_div(needed, c.parts) * c.parts;
    c.pairs = ceil_div(ceil_div(c.tiles, c.blocks), 2);
    c.depth = even_part(m->in, MOST_BLOCK / (2 * c.pairs * SIDE), DEPTH);
    c.step = even_part(c.depth, MOST_STEP, DEPTH);
    return c;
}

static long first_tile(Cut c, long block) { return c.tiles * block / c.blocks; }

// Numbers of a packed block of x. A step of it: its pairs of tiles, of each 32 columns after the others.
static long block_numbers(Cut c) { return ceil_div(c.depth, c.step) * c.step * c.pairs * 2 * SIDE; }

// Sums of a panel and the rows of a block: each thread has those of one, or where the columns come in several turns each
// part has those of all.
static long panel_sums(Cut c) { return c.pairs * SUMS; }
static long own_sums(const Matrix *m, Cut c) {
    return c.halves * panel_sums(c) * (m->in > c.depth ? ceil_div(c.width, PANEL) : 1);
}
static long owners(const Matrix *m, Cut c, int threads) { return m->in > c.depth ? c.parts : threads; }

long tiles_scratch(const Matrix *m, long rows, int activation, int threads) {
    const Cut c = cut(m, rows, activation, threads);
    const long numbers = c.parts * block_numbers(c) + threads * PANEL * c.step;
    return owners(m, c, threads) * own_sums(m, c) * sizeof(float) + numbers * sizeof(uint16_t);
}

INLINE vec load_some(const uint16_t *x, long i, long count) {
    uint16_t some[LANES] = {0};
    if (count > 0) memcpy(some, x + i, (count < LANES ? count : LANES) * sizeof(uint16_t));
    return load(BF16, some, 0);
}

// Sums of 32 rows of weights, from o on, by 16 of x to lines of y, with scales and bias, rounded as torch does.
static void to_lines(const Matrix *m, const float *sums, long o, ivec lines[SIDE]) {
    float scales[PANEL];
    for (int h = 0; h < PANEL && m->type == INT8; h += LANES)
        store(F32, scales, h, load_some(m->scales, o + h, m->out - o - h));
    for (int i = 0; i < SIDE; i++) { // pairs of rows, of which transposing makes pairs of neighbours
        vec a = load(F32, sums, 2 * i * SIDE), b = load(F32, sums, (2 * i + 1) * SIDE);
        if (m->type == INT8) a *= scales[2 * i], b *= scales[2 * i + 1];
        lines[i] = pairs_of(a, b);
    }
    transpose(lines);
    for (int h = 0; h < PANEL && m->bias; h += LANES) {
        const vec bias = load_some(m->bias, o + h, m->out - o - h);
        for (int n = 0; n < SIDE; n++) store(BF16, lines + n, h, load(BF16, lines + n, h) + bias);
    }
}

// activation(gates) * ups, rounded as torch does it, in place of the gates.
static void gate_lines(int activation, ivec gates[SIDE], const ivec ups[SIDE]) {
    for (int n = 0; n < SIDE; n++)
        for (int h = 0; h < PANEL; h += LANES) {
            store(BF16, gates + n, h, activate(activation, load(BF16, gates + n, h)));
            store(BF16, gates + n, h, load(BF16, gates + n, h) * load(BF16, ups + n, h));
        }
}

// What a thread works on: rows `n` to `n_end` - 1 of x, which are packed, and `o` to `o_end` - 1 of the weights.
typedef struct {
    long n, n_end, o, o_end;
    const uint16_t *x;
    uint16_t *panel;
    float *sums;
} Work;

// Columns of x and of the weights, from `first` to `end` - 1.
typedef struct {
    long first, end;
} Columns;

// A panel by a block of x; `next` is the row that the next panel begins with, or -1.
static void panel_product(const Matrix *m, Cut c, Work work, long row, long next, Columns columns, float *sums) {
    const long k = columns.first, end = columns.end;
    const long tiles = ceil_div(work.n_end - work.n, SIDE), turns = c.pairs * (c.step / DEPTH);
    for (long j = k; j < end; j += c.step) {
        const long steps = ceil_div(end - j < c.step ? end - j : c.step, DEPTH);
        const int as_they_lie = m->type == BF16 && row + PANEL <= m->out && j + steps * DEPTH <= m->in;
        const Rows rows = {(const uint16_t *)m->weight + row * m->in + j, m->in, DEPTH};
        const Rows panel = {work.panel, DEPTH, 2 * TILE};
        Ahead ahead = {};
        if (j + c.step < end) ahead = next_panel(m, row, j + c.step, c.step, turns);
        else if (next >= 0) ahead = next_panel(m, next, k, c.step, turns);
        if (!as_they_lie) pack_weights(m, row, j, steps * DEPTH, work.panel);
        for (long p = 0; p < ceil_div(tiles, 2); p++) {
            const uint16_t *x = work.x + ((j - k) * c.pairs + p * c.step) * 2 * SIDE;
            const Square y = {sums + p * SUMS, SIDE, 2 * SIDE * SIDE};
            const int both = 2 * p + 1 < tiles, copies = COPIES && as_they_lie && p == 0;
            const Rows left = as_they_lie && (copies || !COPIES) ? rows : panel;
            if (copies && both) add_square(1, left, work.panel, x, steps, j == 0, y, &ahead);
            else if (copies) add_square(0, left, work.panel, x, steps, j == 0, y, &ahead);
            else if (both) add_square(1, left, NULL, x, steps, j == 0, y, &ahead);
            else add_square(0, left, NULL, x, steps, j == 0, y, &ahead);
        }
    }
}

// The panel's part of y (rows, width).
static void finish(const Matrix *m, Cut c, Work work, long o, int activation, const float *sums, uint16_t *y) {
    const long count = work.o_end - o < PANEL ? work.o_end - o : PANEL;
    for (long n = work.n; n < work.n_end; n += SIDE, sums += SUMS / 2) {
        ivec lines[SIDE], ups[SIDE];
        to_lines(m, sums, o, lines);
        if (activation != NO_GATE) {
            to_lines(m, sums + panel_sums(c), o + c.width, ups);
            gate_lines(activation, lines, ups);
        }
        for (long i = 0; i < SIDE && n + i < work.n_end; i++) {
            uint16_t *to = y + (n + i) * c.width + o;
            if (c.streams && count == PANEL && (uintptr_t)to % 64 == 0) _mm512_stream_si512((void *)to, (__m512i)lines[i]);
            else memcpy(to, lines + i, count * sizeof(uint16_t));
        }
    }
}

// All of a thread's panels.
static void columns_product(const Matrix *m, Cut c, Work work, Columns columns, int activation, uint16_t *y) {
    for (long o = work.o; o < work.o_end; o += PANEL) {
        float *sums = work.sums + (m->in > c.depth ? o / PANEL * c.halves * panel_sums(c) : 0);
        for (long h = 0; h < c.halves; h++) {
            const long row = o + h * c.width, below = o + PANEL < work.o_end ? o + PANEL : -1;
            const long next = h + 1 < c.halves ? row + c.width : below;
            panel_product(m, c, work, row, next, columns, sums + h * panel_sums(c));
        }
        if (columns.end == m->in) finish(m, c, work, o, activation, sums, y);
    }
}

// A round: of each part its block of x is packed, by all threads of the team.
static void pack_blocks(const Matrix *m, Cut c, const uint16_t *x, long rows, long round, Columns columns,
                        uint16_t *packed) {
    const long most = 2 * c.pairs, k = columns.first;
#pragma omp for
    for (long i = 0; i < c.parts * most; i++) {
        const long block = i / most * (c.blocks / c.parts) + round, in_block = i % most;
        const long tile = first_tile(c, block) + in_block;
        uint16_t *to = packed + i / most * block_numbers(c) + in_block / 2 * c.step * 2 * SIDE + in_block % 2 * TILE;
        for (long j = k; j < columns.end && tile < first_tile(c, block + 1); j += DEPTH) {
            const long before = (j - k) / c.step * c.step; // columns of the steps before
            pack_x(x, rows, m->in, tile * SIDE, j, to + (before * c.pairs + j - k - before) * 2 * SIDE);
        }
    }
}

// y (rows, out) = x (rows, in) W^T + bias, all bfloat16; with an activation, W is a gate above what it is for, and y
// (rows, out / 2) as of `gated_product`. Called by every thread of a team.
void tiles_product(const Matrix *m, const uint16_t *x, long rows, int activation, void *scratch, uint16_t *y) {
    const int threads = omp_get_num_threads(), me = omp_get_thread_num();
    const Cut c = cut(m, rows, activation, threads);
    const long team = threads / c.parts, part = me / team, rounds = c.blocks / c.parts;
    float *sums = scratch;
    uint16_t *packed = (uint16_t *)(sums + owners(m, c, threads) * own_sums(m, c));
    Work work = {.x = packed + part * block_numbers(c)};
    work.sums = sums + (m->in > c.depth ? part : me) * own_sums(m, c);
    work.panel = packed + c.parts * block_numbers(c) + me * PANEL * c.step;
    share_of(c.width, PANEL, me % team, team, &work.o, &work.o_end);
    configure();
    for (long round = 0; round < rounds; round++) {
        work.n = first_tile(c, part * rounds + round) * SIDE;
        work.n_end = first_tile(c, part * rounds + round + 1) * SIDE;
        if (work.n_end > rows) work.n_end = rows;
        for (long k = 0; k < m->in; k += c.depth) {
            const Columns columns = {k, m->in - k < c.depth ? m->in : k + c.depth};
            pack_blocks(m, c, x, rows, round, columns, packed);
            columns_product(m, c, work, columns, activation, y);
#pragma omp barrier // before the next columns overwrite `packed`
        }
    }
    release();
    _mm_sfence(); // y is written past the caches
}
#else
long tiles_scratch(const Matrix *m, long rows, int activation, int threads) { return 0; }
void tiles_product(const Matrix *m, const uint16_t *x, long rows, int activation, void *scratch, uint16_t *y) {}
#endif
