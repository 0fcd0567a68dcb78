// Plain structs shared by the kernels of every instruction set and by the code that calls them.
// Nothing here may be an inline function or a template: this header is compiled into each kernel unit.
#pragma once
#include <cstddef>
#include <cstdint>

namespace lk::cpu {

// Output rows that lie side by side in a packed weight: one register of 16 float32 with AVX-512.
constexpr int kLanes = 16;
// Positions of one attention partial. Partials start at multiples of this, so they never depend on the step.
constexpr int kSplit = 256;
// Values along k whose weights lie together in a panel, scales first.
constexpr int kSuper = 256;

enum class WeightKind : int { f32, f16, bf16, quantised };

// How wide the codes of a quantised panel are: in planes of whole bytes, nibbles, pairs of bits, and single bits.
enum class Codes : int { byte, nibble, nibble_bit, nibble_pair, pair, pair_bit };

// value = scale / divisor * (code - bias) + min. The codes of 256 values follow their scales; `pack-inl.h` describes
// the order.
struct PanelFormat {
    Codes codes;
    int block;        // values along k per scale: 16 or 32
    bool nested;      // scales are int8 times one float16 per 256 values, as in the K types
    bool wide_scale;  // scales are float32
    bool has_min;
    int table;  // codes stand for values of a table, 0: for themselves
    int bias;
    int divisor = 1;  // only where scales are nested
};

// IQ1 to IQ3 and TQ are expanded when they are packed: to the values that points of their grids have, in two to four
// bits.
enum class Packing : int {
    q4_0,
    q4_1,
    q5_0,
    q5_1,
    q8_0,
    q2_k,
    q3_k,
    q4_k,
    q5_k,
    q6_k,
    q8_k,
    iq4_nl,
    iq4_xs,
    mxfp4,
    iq1_s,
    iq1_m,
    iq2_xxs,
    iq2_xs,
    iq2_s,
    iq3_xxs,
    iq3_s,
    tq1_0,
    tq2_0
};

constexpr PanelFormat kFormats[] = {
    {Codes::nibble, 32, false, false, false, 0, 8},       // Q4_0
    {Codes::nibble, 32, false, false, true, 0, 0},        // Q4_1
    {Codes::nibble_bit, 32, false, false, false, 0, 16},  // Q5_0
    {Codes::nibble_bit, 32, false, false, true, 0, 0},    // Q5_1
    {Codes::byte, 32, false, false, false, 0, 128},       // Q8_0
    {Codes::pair, 16, true, false, true, 0, 0},           // Q2_K
    {Codes::pair_bit, 16, true, false, false, 0, 4},      // Q3_K
    {Codes::nibble, 32, true, false, true, 0, 0},         // Q4_K
    {Codes::nibble_bit, 32, true, false, true, 0, 0},     // Q5_K
    {Codes::nibble_pair, 16, true, false, false, 0, 32},  // Q6_K
    {Codes::byte, 32, false, true, false, 0, 128},        // Q8_K
    {Codes::nibble, 32, false, false, false, 1, 127},     // IQ4_NL
    {Codes::nibble, 32, true, false, false, 1, 127},      // IQ4_XS
    {Codes::nibble, 32, false, true, false, 2, 12},       // MXFP4
    {Codes::pair_bit, 16, true, false, false, 3, 9, 8},   // IQ1_S
    {Codes::pair_bit, 16, true, false, false, 3, 9, 8},   // IQ1_M
    {Codes::pair_bit, 16, true, false, false, 4, 43, 8},  // IQ2_XXS
    {Codes::pair_bit, 16, true, false, false, 4, 43, 8},  // IQ2_XS
    {Codes::pair_bit, 16, true, false, false, 4, 43, 8},  // IQ2_S
    {Codes::nibble, 32, true, false, false, 5, 62, 4},    // IQ3_XXS
    {Codes::nibble, 32, true, false, false, 6, 15},       // IQ3_S
    {Codes::pair, 16, true, false, false, 0, 1},          // TQ1_0
    {Codes::pair, 16, true, false, false, 0, 1},          // TQ2_0
};
constexpr int kPackings = sizeof kFormats / sizeof kFormats[0];

// The form in which a kind of weight takes its activations: float32, bfloat16 pairs along k, or int8 with a float32
// scale for 32 or 256 values.
enum class ActForm : int { f32, bf16, int8_32, int8_256 };
constexpr int kActForms = 4;

// A weight (n_out, n_in). Packed: panels of 16 output rows, zero rows at the end; float panels are [n_in][16], of
// bfloat16 [n_in/2][16][2]. Not packed: `data` is null, and panels are made of `rows`, GGUF's blocks, where they are
// wanted.
struct WeightView {
    WeightKind kind;
    Packing packing;
    ActForm form;
    int64_t n_out, n_in;
    int64_t panel_bytes;
    const uint8_t* data;
    const uint8_t* rows;
    int64_t row_bytes;
};

// Activations in tiles of rows, the last tile with the rows that are left. A tile is [n_in][tile] float32,
// [n_in/2][tile][2] bfloat16 (float32 where there are no products of bfloat16) or [n_in/4][tile][4] int8; for int8
// [blocks][tile] scales and [n_in/16][tile] sums.
struct ActView {
    ActForm form;
    int64_t n_rows, n_in;
    uint8_t* values;
    float* scales;
    int32_t* sums;
};

// y = x W^T + bias + residual; with `up`: y = activation(x W^T) * (x up^T). `starts` are what `start_sums` made.
struct LinearTask {
    WeightView weight;
    const WeightView* up;
    bool gelu;
    ActView x;
    const int32_t* starts;
    const float* bias;
    const float* residual;
    float* y;
    int64_t ldy, ld_residual;
};

enum class KVType : int { f32, f16, bf16, q8_0 };

// Neighbouring values along which a dot product runs that lie side by side in the cache, by KVType: pairs of bfloat16,
// quads of int8.
constexpr int kTogether[] = {1, 1, 2, 4};

// One layer of the KV cache, in groups of 16 cells, each head's part of a group in one piece, so that attention reads
// it as it lies. With p values packed together, a group holds for each head
//   keys [pad_k / p][16 cells][p], so that 16 scores are one register (pad_k: dim_k rounded up to a multiple of p),
//   values [16 / p][dim_v][p cells].
// Scales of q8_0, for 32 neighbouring values of a cell (over all heads), lie apart: keys [16 cells] for each 32 values
// of a group, values [n_head * dim_v / 32] for each cell.
struct KVLayer {
    KVType type;
    int64_t n_head, dim_k, dim_v, pad_k;
    uint8_t* k;
    uint8_t* v;
    uint16_t* k_scales;
    uint16_t* v_scales;
};

// The keys that rows of one sequence see: cells of a paged cache.
struct Keys {
    const KVLayer* layer;
    const int32_t* blocks;  // block table of the sequence
    int32_t block_size;
};

// Attention of a few query rows of one sequence with one KV head.
struct AttendTask {
    Keys keys;
    int n_rows, group;               // rows of the tile, query heads per KV head
    int n_head, n_head_kv, head_kv;  // head_kv: which KV head
    int dim_k, dim_v;
    float scale;
    float cap;              // scores become cap * tanh(score / cap); 0: they stay
    const float* slopes;    // of each head, times (position of the key - of the row) is added to scores; or null
    const float* sinks;     // of each head, a score that takes its share and gives nothing; or null
    const float* const* q;  // n_rows rows of (n_head, dim_k)
    float* const* out;      // n_rows rows of (n_head, dim_v)
    const int32_t* first;   // first key that each row sees
    const int32_t* last;    // one past the last
    // Keys are taken in partials of kSplit positions: these of them (counted from position 0).
    int32_t split_begin, split_end;
    float* parts;            // null: write `out`; else one result a partial and row, for `attend_merge`,
    int32_t first_part = 0;  // from this partial on
};

// What is done to each value alone. gelu is the tanh form, gelu_erf the exact one; soft_cap: cap * tanh(x / cap).
enum class Activation : int { silu, gelu, gelu_erf, relu, relu_squared, soft_cap };

struct TrainingKernels;  // training_types.h

struct KernelTable {
    const char* name;
    int float_tile, int_tile;  // rows of a tile
    int bf16_bytes;            // of an activation in bfloat16: 4 where it is kept as float32

    // One tile of activations: rows [row, row + tile) of x to their place in `act`.
    void (*prepare)(const float* x, int64_t ldx, int64_t row, int tile, const ActView& act);
    // What biases and minima of a packing add to the sums of one int8 tile: to its place in `starts`, which has
    // n_in / 16 words a row.
    void (*start_sums)(Packing packing, const ActView& act, int64_t row, int tile, int32_t* starts);
    // Rows [from, to), `from` at a tile, of panels [begin, end).
    void (*linear)(const LinearTask& task, int64_t from, int64_t to, int64_t begin, int64_t end);
    // Float panels [begin, end) of y = x W^T for rows of float32 that were not prepared. `scratch` is private to the
    // thread: n_in * float_tile floats.
    void (*linear_rows)(const WeightView& w, const float* x, int64_t ldx, int64_t n_rows, int64_t begin, int64_t end,
                        float* y, int64_t ldy, uint8_t* scratch);
    void (*weight_row)(const WeightView& w, int64_t row, float* y);
    // Rows [0, n_row) of a tensor in GGUF's blocks to one panel of zeros; n_row <= 16.
    void (*pack_panel)(const WeightView& w, const uint8_t* rows, int64_t row_bytes, int n_row, uint8_t* panel);
    int64_t (*panel_bytes)(const WeightView& w);

    void (*rms_norm)(const float* x, const float* weight, const float* delta, float delta_scale, float epsilon,
                     int64_t n, float* y);
    // (x - mean) / sqrt(variance + epsilon) * weight + bias, either of which may be null.
    void (*layer_norm)(const float* x, const float* weight, const float* bias, float epsilon, int64_t n, float* y);
    void (*activate)(const float* x, Activation kind, float cap, int64_t n, float* y);
    void (*rope)(const float* x, const float* cos_sin, int64_t n_head, int64_t head_dim, int64_t n_rot, bool adjacent,
                 float* y);
    void (*add)(const float* a, const float* b, int64_t n, float* y);
    void (*mul)(const float* a, const float* b, int64_t n, float* y);
    void (*scale)(const float* a, float factor, int64_t n, float* y);
    void (*axpy)(float factor, const float* a, int64_t n, float* y);  // y += factor * a
    float (*dot)(const float* a, const float* b, int64_t n);
    void (*gated)(const float* gate, const float* up, bool gelu, int64_t n, float* y);
    float (*maximum)(const float* x, int64_t n);
    float (*exp_sum)(const float* x, float top, int64_t n);                           // sum of exp(x - top)
    void (*exp_scale)(const float* x, float top, float factor, int64_t n, float* y);  // factor * exp(x - top)

    void (*kv_write)(const KVLayer& layer, int64_t cell, const float* k, const float* v);
    void (*kv_read)(const KVLayer& layer, int64_t cell, float* k, float* v);
    void (*attend)(const AttendTask& task, float* scratch);
    // Merges all partials that `attend` left in task.parts, in their order, and writes `out`.
    void (*attend_merge)(const AttendTask& task, float* scratch);
    int64_t (*attend_scratch)(int64_t n_rows, int64_t dim_k, int64_t dim_v);  // floats; n_rows: rows times group
    int64_t (*attend_part)(int64_t dim_v);                                    // floats of one partial and row

    int64_t (*read_all)(const uint8_t* x, int64_t n);
    int64_t (*multiply)(ActForm form, int64_t n);

    const TrainingKernels* training;
};

}  // namespace lk::cpu
