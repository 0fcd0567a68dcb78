// A compiled graph: a flat list of steps over an arena of float32, run in one call.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cpu/adapters.h"
#include "cpu/gemm.h"
#include "cpu/kv_cache.h"
#include "cpu/map.h"
#include "cpu/pack.h"
#include "cpu/pool.h"
#include "cpu/state.h"
#include "cpu/types.h"

namespace lk::cpu {

// Where a value lies, how many rows it has at each run, and how many floats a row.
struct Value {
    int64_t offset = 0;  // in floats: in the arena, in the packed inputs, or in a state
    bool input = false;
    std::shared_ptr<State> state;  // null: in none
    int dim = -1;                  // the free size that counts its rows; -1: there are n_fixed
    int64_t n_fixed = 0;
    int64_t width = 0;
    int64_t n_head = 1;  // of (rows, n_head, dim)
};

// One linear of a group that shares its input.
struct LinearPart {
    std::shared_ptr<Weight> weight, bias;
    std::string target;  // name of the weight, for adapters
    Value out;
};

enum class StepKind : int {
    linears,  // one or several that share their input
    embedding,
    rms_norm,
    layer_norm,
    rope,
    attention,
    experts,
    add,
    mul,
    scale,
    gated,
    activation,
    soft_cap,
    select_rows,
    matmul,
    cross_entropy,
    cross_entropy_grad,
    write_state,
    add_state,
    linear_back,
    rms_norm_back,
    layer_norm_back,
    attention_back,
    gated_back,
    scatter_rows,
    sum_rows,
    experts_back,
    head_loss,
    map,
    reduce
};

struct Step {
    Step() = default;
    Step(StepKind k, std::string n) : kind(k), name(std::move(n)) {}

    StepKind kind{};
    std::string name;
    std::vector<Value> outs;
    std::vector<Value> in;
    std::vector<int64_t> ints;                   // offsets of integer inputs in the packed block, -1 for missing ones
    std::shared_ptr<Weight> weight, other;       // other: b of head_loss, the bias of layer_norm
    std::string target;                          // name of the weight, for adapters
    std::vector<std::shared_ptr<State>> states;  // that it changes, null for missing ones; of map and reduce, all
    // Attributes, of those kinds that have them.
    float epsilon = 0, factor = 1, cap = 0;
    std::vector<float> slopes;  // of the heads of attention
    Activation activation{};
    int64_t layer = -1, window = 0, n_used = 0, chunk = 0;
    ReduceKind reduction{};
    std::shared_ptr<Map> map;
    bool slope = false;  // the derivative of an activation
    bool normalise = false, transpose_a = false, transpose_b = false;
    Rope rope;
    int64_t table = -1;  // which cos/sin table
    // Of a group of linears: the norm that makes their input; whether out = activation(first) * second; whether
    // in[1] is added to out.
    std::vector<LinearPart> parts;
    std::shared_ptr<Step> norm;
    bool gated = false, gelu = false;
    bool plain = false;  // a linear's weights as their values in float32, and so are its inputs

    const Value& out() const { return outs[0]; }
};

constexpr int64_t kManyRows = 16;
// How linears are cut into chunks that a thread takes.
constexpr int64_t kDecodeBytes = 256 << 10;  // of weights in a chunk when there are few rows: a stream worth beginning
constexpr int64_t kFloatPanels = 4;          // that float kernels take at once for one row
constexpr int64_t kPanelsPerChunk = LinearDelta::kPanels;
constexpr int64_t kRowsPerChunk = 96;     // a multiple of every tile
constexpr int64_t kSerialCost = 1 << 15;  // multiplications below which waking threads costs more than it gives

// How attention is cut.
constexpr int64_t kAttendRows = 96;  // query heads times positions that share one reading of the keys
constexpr int64_t kTasksPerThread = 4;
constexpr int64_t kMostParts = 16 << 20;  // floats of partials that are kept apart: 64 MiB

// The weight of one of the experts that lie in `all`.
WeightView expert_of(const WeightView& all, int64_t expert, int64_t n_expert);

// What the way back through experts holds for n rows.
int64_t expert_back_floats(const Step& step, int64_t n);

// Whether a head's logits are products of rounded activations, as those of a linear.
inline bool has_rounded_inputs(const Step& step) {
    const WeightKind kind = step.weight->view.kind;
    return !step.plain && (kind == WeightKind::quantised || kind == WeightKind::bf16);
}

// Throws std::invalid_argument with the step's name.
[[noreturn]] void fail(const Step& step, const std::string& message);
// Throws unless all n values are in [begin, end).
void check_range(const Step& step, const char* what, const int32_t* values, int64_t n, int64_t end, int64_t begin = 0);

// The free sizes of one run, in the program's order.
struct Sizes {
    std::vector<int64_t> dims;
    int64_t longest = 0;
};

class Program {
  public:
    Program(std::shared_ptr<Pool> pool, const KernelTable& kernels, std::vector<Step> steps, int64_t arena_floats,
            const int32_t* inputs, std::shared_ptr<KVCache> kv, std::shared_ptr<AdapterTable> adapters,
            std::vector<int64_t> max_dims, int64_t max_seqs, int64_t blocks_per_seq);

    // How many threads steps of few and of many (kManyRows) rows get.
    void use_threads(int few, int many) { threads_few_ = few, threads_many_ = many; }
    // Products of training with operands in bfloat16, if the kernels have such.
    void use_pairs(bool wanted) { pairs_ = wanted && kernels_.bf16_bytes == 2; }
    void run(const Sizes& sizes);
    const float* data(const Value& value) const { return at(value); }
    int64_t n_rows(const Value& value) const;

  private:
    float* arena() const { return reinterpret_cast<float*>(arena_->data()); }
    float* at(const Value& v) const {
        if (v.input) return reinterpret_cast<float*>(const_cast<int32_t*>(inputs_)) + v.offset;
        return (v.state ? v.state->floats() : arena()) + v.offset;
    }
    // The i-th integer input of a step; null for one that it has not.
    const int32_t* ints(const Step& step, size_t i) const {
        return i >= step.ints.size() || step.ints[i] < 0 ? nullptr : inputs_ + step.ints[i];
    }
    void check() const;
    void check_attention(const Step& step) const;
    std::vector<AdapterRun> adapter_runs(const Step& step, const std::string& target, const Weight& weight,
                                         int64_t n) const;
    void for_rows(int64_t n, int64_t cost, const std::function<void(int64_t)>& body);

    void embedding(const Step& step);
    void linears(const Step& step);
    void prepare(const Step& step);
    void multiply(const LinearTask& task, int64_t from, int64_t to, int64_t begin, int64_t end, int thread);
    void multiply_native(const WeightView& weight, const float* x, int64_t n, float* y);
    LinearTask linear_task(const Step& step, const LinearPart& part) const;
    void gate(const Step& step);
    void experts(const Step& step);
    void route(const Step& step);
    void norm_row(const Step& step, const std::vector<const Adapter*>& adapters, int64_t row);
    std::vector<const Adapter*> norm_adapters(const Step& step);
    void rms_norm(const Step& step);
    void layer_norm(const Step& step);
    void rope(const Step& step);
    struct AttendTile;
    void attention(const Step& step);
    void elementwise(const Step& step);
    void select_rows(const Step& step);
    void matmul(const Step& step);
    void cross_entropy(const Step& step);
    void change_state(const Step& step);
    // Those of training (training.cpp).
    void plain_linears(const Step& step);
    void linear_back(const Step& step);
    void rms_norm_back(const Step& step);
    void layer_norm_back(const Step& step);
    void attend_rows(const Step& step);
    void attention_back(const Step& step);
    void gated_back(const Step& step);
    void experts_back(const Step& step);
    void expert_back(const Step& step, int64_t expert, const std::vector<int64_t>& pairs, float* memory,
                     double* d_share);
    void scores_back(const Step& step, const double* d_share);
    void scatter_rows(const Step& step);
    void sum_rows(const Step& step);
    void head_loss(const Step& step);
    void run_map(const Step& step);
    void reduce(const Step& step);
    void run_step(const Step& step);

    std::shared_ptr<Pool> pool_;
    const KernelTable& kernels_;
    std::vector<Step> steps_;
    std::unique_ptr<Arena> arena_;
    const int32_t* inputs_;
    std::shared_ptr<KVCache> kv_;
    std::shared_ptr<AdapterTable> adapters_;
    std::vector<int64_t> max_dims_;
    int64_t max_seqs_, blocks_per_seq_;
    int threads_few_, threads_many_;
    bool pairs_ = false;
    Sizes sizes_{};
    Workspace memory_;
    std::vector<std::vector<uint8_t>> scratch_;                // one a thread
    std::vector<std::array<std::vector<uint8_t>, 2>> panels_;  // one a thread: of weights that are not packed
    std::vector<LinearDelta> deltas_;                          // of the linears that run, by part
    std::vector<float> parts_;                                 // results of partials of attention
    std::vector<float> cos_sin_;                               // of the last rope table
    int64_t cos_sin_table_ = -1;
    // Activations by form, the value that each was made from, and what the packings add to its sums.
    struct Prepared {
        const float* of = nullptr;
        ActView view{};
        std::vector<uint8_t> values;
        std::vector<float> scales;
        std::vector<int32_t> sums;
        std::array<std::vector<int32_t>, kPackings> starts;
        std::array<bool, kPackings> started{};
        void hold(ActForm form, int64_t n, int64_t width, bool integer);
    };
    std::array<Prepared, kActForms> prepared_;

    // What a mixture of experts works with. Pairs of a row and one of its experts, (rows, n_used), `place` where they
    // lie when all pairs of an expert are together: those of expert i from `first[i]` on.
    struct Experts {
        struct Prepared {
            int64_t row_bytes = 0, per_scale = 32;
            std::vector<uint8_t> values;
            std::vector<float> scales;
            std::vector<int32_t> sums, starts;
            // `count` rows from `first` on.
            ActView view(const WeightView& weight, int64_t first, int64_t count);
        };
        std::vector<int32_t> chosen;
        std::vector<float> share;
        std::vector<int64_t> place, first;
        std::vector<float> rows, hidden, other, out;  // by place
        Prepared prepared;
    };
    Experts experts_;
    void prepare_experts(const WeightView& weight, const float* rows, Experts::Prepared& to);
    void expert_linears(const Step& step, const WeightView& all, const WeightView* up, Experts::Prepared& x, float* y);
};

}  // namespace lk::cpu
