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
// Values that share one activation scale.
constexpr int kActBlock = 32;

enum class WeightKind : int { f32, f16, bf16, quantised };

// How a quantised panel is stored: value = scale * (u - bias) + min, with u in 4 or 8 bits.
struct PanelFormat {
    bool wide;        // u in bytes, else two k-groups share a byte
    int block;        // values along k per scale: 16 or 32
    bool half_scale;  // scales and mins are float16, else float32
    bool has_min;
    int bias;
};

// A packed weight (n_out, n_in): panels of 16 output rows, zero rows at the end.
// Float panels are [n_in][16]; quantised ones [n_in/4][16][4] values, then [n_in/block][16] scales, then mins.
struct WeightView {
    WeightKind kind;
    PanelFormat format;
    int64_t n_out, n_in;
    int64_t panel_bytes, scale_offset, min_offset;
    const uint8_t* data;
};

// Activations in int8: tiles of rows, each [n_in/4][tile][4] values, [n_in/32][tile] scales, [n_in/16][tile] sums.
struct ActView {
    int64_t n_rows, n_in;
    int8_t* values;
    float* scales;
    int32_t* sums;
};

enum class KVType : int { f32, f16, bf16, q8_0 };

// One layer of the KV cache. Keys: groups of 16 cells, [k_values][16], so that 16 scores are one register.
// Values: one row of v_values a cell. For q8_0 the scales lie apart: [k_values/32][16] a group, [v_values/32] a cell.
struct KVLayer {
    KVType type;
    int64_t k_values, v_values;
    uint8_t* k;
    uint8_t* v;
    uint16_t* k_scales;
    uint16_t* v_scales;
};

// The keys that rows of one sequence see: cells of a paged cache, or rows of the step itself.
struct Keys {
    const KVLayer* layer;   // null: keys and values are rows of the step
    const int32_t* blocks;  // block table of the sequence
    int32_t block_size;
    const int32_t* rows;  // step rows of the sequence, in order (without a cache)
    const float* k;       // (rows, n_head_kv, dim_k)
    const float* v;       // (rows, n_head_kv, dim_v)
};

// Attention of a few query rows of one sequence with one KV head.
struct AttendTask {
    Keys keys;
    int n_rows, group;               // rows of the tile, query heads per KV head
    int n_head, n_head_kv, head_kv;  // head_kv: which KV head
    int dim_k, dim_v;
    float scale;
    const float* const* q;  // n_rows rows of (n_head, dim_k)
    float* const* out;      // n_rows rows of (n_head, dim_v)
    const int32_t* first;   // first key that each row sees
    const int32_t* last;    // one past the last
};

struct KernelTable {
    const char* name;
    int float_tile, int_tile;  // rows of a step that one kernel call handles at most

    void (*quantise)(const float* x, int64_t ldx, int tile, int64_t n, int8_t* q, float* scales, int32_t* sums);
    // Panels [begin, end) of y = x W^T for all rows. `scratch` is private to the thread.
    void (*linear_int)(const WeightView& w, const ActView& x, int64_t begin, int64_t end, float* y, int64_t ldy,
                       uint8_t* scratch);
    void (*linear_float)(const WeightView& w, const float* x, int64_t ldx, int64_t n_rows, int64_t begin, int64_t end,
                         float* y, int64_t ldy, uint8_t* scratch);
    void (*weight_row)(const WeightView& w, int64_t row, float* y);

    void (*rms_norm)(const float* x, const float* weight, const float* delta, float delta_scale, float epsilon,
                     int64_t n, float* y);
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
};

}  // namespace lk::cpu
