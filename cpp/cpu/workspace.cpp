#include "cpu/workspace.h"

#include <algorithm>
#include <array>

#include "cpu/attention_rows.h"
#include "cpu/dispatch.h"
#include "cpu/head_loss.h"
#include "formats/quants.h"

namespace lk::cpu {
namespace {

bool is_integer(const WeightView& w) {
    return w.form == ActForm::int8_32 || w.form == ActForm::int8_256;
}

// Buffers that steps share grow to the largest that any of them needs.
class Buffers {
  public:
    Buffers(const KernelTable& kernels, const std::vector<int64_t>& max_dims, int64_t max_positions, int64_t n_thread)
        : kernels_(kernels), max_dims_(max_dims), max_positions_(max_positions), n_thread_(n_thread) {}

    void add(const Step& step) {
        if (step.kind == StepKind::linears && !step.plain) linears(step);
        training(step);
        if (step.kind == StepKind::rope)
            grow(cos_sin_, n_rows(step.in[0]) * int64_t(step.rope.inv_freq.size()) * 2 * 4);
        if (step.kind == StepKind::attention && step.layer >= 0) attention(step);
        if (step.kind == StepKind::experts) experts(step);
        if (step.kind == StepKind::experts_back) experts_back(step);
    }

    int64_t total() const {
        int64_t sum = parts_ + cos_sin_ + experts_ + (scratch_ + panels_[0] + panels_[1]) * n_thread_;
        sum += (most_.shared + most_.held + most_.own * n_thread_) * 4 + lying_ * n_thread_;
        for (const auto& form : activations_) sum += form;
        for (const auto& form : starts_)
            for (const int64_t packing : form) sum += packing;
        return sum;
    }

  private:
    static void grow(int64_t& buffer, int64_t bytes) { buffer = std::max(buffer, bytes); }
    int64_t n_rows(const Value& v) const { return v.dim < 0 ? v.n_fixed : max_dims_[size_t(v.dim)]; }

    // As `Program::prepare`, and `panels_of` for weights that are not packed.
    void linears(const Step& step) {
        const Value& x = step.norm ? step.norm->out() : step.in[0];
        const int64_t n = n_rows(x);
        for (size_t i = 0; i < step.parts.size(); ++i)
            linear(step.parts[i].weight->view, n, panels_[step.gated ? i % 2 : 0]);
    }

    void linear(const WeightView& w, int64_t n, int64_t& panels) {
        const int64_t width = w.n_in;
        grow(activations_[size_t(w.form)],
             is_integer(w) ? n * width + n * width / 32 * 4 + n * width / 16 * 4 : n * (width + 1) * 4);
        if (is_integer(w)) grow(starts_[size_t(w.form)][size_t(w.packing)], n * width / 16 * 4);
        if (w.data == nullptr) grow(panels, kPanelsPerChunk * w.panel_bytes + 64);
    }

    // As `Program::attention`: partials are kept apart where there are fewer tasks than threads want.
    void attention(const Step& step) {
        const Value &q = step.in[0], &k = step.in[1], &v = step.in[2];
        const int64_t group = q.n_head / k.n_head, dim_v = v.width / v.n_head;
        const int64_t most = std::max<int64_t>(1, kAttendRows / group);
        grow(scratch_, kernels_.attend_scratch(most * group, k.width / k.n_head, dim_v) * 4);
        const int64_t tasks = kTasksPerThread * n_thread_;
        const int64_t tiles = (tasks - 1) / k.n_head;
        const int64_t splits = (max_positions_ + kSplit - 1) / kSplit, rows = std::min(n_rows(q), tiles * most);
        const int64_t parts = splits * rows * group * kernels_.attend_part(dim_v) * k.n_head;
        if (splits > 1) grow(parts_, std::min(parts, kMostParts) * 4);
    }

    void grow(const WorkspaceFloats& floats) {
        grow(most_.shared, floats.shared), grow(most_.held, floats.held), grow(most_.own, floats.own);
    }

    // A product with a weight; one that is not packed is packed a few panels at a time.
    void product(const Weight& weight, int64_t n, bool back) {
        const WeightView& w = weight.view;
        grow(back ? product_floats(n, w.n_in, w.n_out) : product_floats(n, w.n_out, w.n_in));
        if (w.data == nullptr && w.kind != WeightKind::f32)
            grow(lying_, kColumnsTogether / kLanes * w.panel_bytes + 64);
    }

    // The steps of training.cpp.
    void training(const Step& step) {
        const int64_t n = step.in.empty() ? 0 : n_rows(step.in[0]);
        for (const LinearPart& part : step.parts)
            if (step.kind == StepKind::linears && step.plain) product(*part.weight, n, false);
        if (step.kind == StepKind::linear_back) product(*step.weight, n, true);
        if (step.kind == StepKind::matmul) {
            const Value &a = step.in[0], &b = step.in[1];
            const int64_t width = step.transpose_b ? n_rows(b) : b.width;
            grow(step.transpose_a ? product_floats(a.width, width, n) : product_floats(n, width, a.width));
        }
        if (step.kind == StepKind::rms_norm_back) grow(WorkspaceFloats{0, n * step.in[0].n_head, 0});
        if (step.kind == StepKind::layer_norm_back && step.states[0]) grow(WorkspaceFloats{0, n * step.in[0].width, 0});
        if (step.kind == StepKind::map) grow(WorkspaceFloats{0, 0, step.map->own_floats()});
        if (step.kind == StepKind::head_loss) {
            HeadLoss t{};
            t.n_row = n, t.n_embd = step.in[0].width, t.n_vocab = step.weight->view.n_out, t.chunk = step.chunk;
            t.rank = step.other ? step.other->view.n_in : 0;
            grow(head_loss_floats(t));
            if (has_rounded_inputs(step)) linear(step.weight->view, std::min(n, step.chunk), panels_[0]);
        }
        const bool back = step.kind == StepKind::attention_back;
        if (!back && (step.kind != StepKind::attention || step.layer >= 0)) return;
        const Value &q = step.in[0], &k = step.in[1], &v = step.in[2];
        RowsAttention a{};
        a.n_row = n, a.n_head = q.n_head, a.n_head_kv = k.n_head;
        a.dim_k = k.width / k.n_head, a.dim_v = v.width / v.n_head;
        grow(attention_floats(kernels_, a, back));
    }

    // As `Program::experts` and `Program::prepare_experts`.
    void experts(const Step& step) {
        const WeightView &gate = step.parts[0].weight->view, &up = step.parts[1].weight->view;
        const WeightView& down = step.parts[2].weight->view;
        const int64_t n_pair = n_rows(step.in[0]) * step.n_used, n_ff = down.n_in, width = gate.n_in;
        const bool mixed = gate.kind != up.kind || gate.packing != up.packing;
        int64_t values = 0, sums = 0;  // of the prepared rows
        for (const WeightView* w : {&gate, &up, &down}) {
            grow(values, n_pair * w->n_in * (is_integer(*w) ? 1 : 4));
            if (is_integer(*w)) grow(sums, n_pair * w->n_in * 4 / 32 + n_pair * w->n_in * 4 / 16 * 2);
            if (w->data == nullptr) grow(panels_[w == &up && !mixed], kPanelsPerChunk * w->panel_bytes + 64);
        }
        grow(experts_, n_pair * (width + n_ff * (mixed ? 2 : 1) + step.out().width + 4) * 4 + values + sums);
    }

    // As `Program::expert_back`, where all rows choose the same expert.
    void experts_back(const Step& step) {
        const int64_t n = n_rows(step.in[0]);
        grow(WorkspaceFloats{0, expert_back_floats(step, n), 0});
        for (const LinearPart& part : step.parts) {
            product(*part.weight, n, false);
            product(*part.weight, n, true);
        }
        grow(experts_, n * step.n_used * 32);
    }

    const KernelTable& kernels_;
    const std::vector<int64_t>& max_dims_;
    int64_t max_positions_, n_thread_;
    std::array<int64_t, kActForms> activations_{};
    std::array<std::array<int64_t, kPackings>, kActForms> starts_{};
    std::array<int64_t, 2> panels_{};
    int64_t scratch_ = 0, parts_ = 0, cos_sin_ = 0, experts_ = 0, lying_ = 0;
    WorkspaceFloats most_;  // of a Workspace
};

}  // namespace

std::shared_ptr<Weight> planned_weight(int type, int64_t n_out, int64_t n_in, bool is_vector, bool packed) {
    static const uint8_t somewhere = 0;
    if (is_vector) return std::make_shared<Weight>(type, n_out, n_in, true);
    const size_t n = size_t(n_out * formats::row_bytes(type, n_in));
    auto weight = std::make_shared<Weight>(type, n_out, n_in, nullptr, n, nullptr);
    if (packed) weight->view.data = &somewhere;
    return weight;
}

int64_t workspace_bytes(const KernelTable& kernels, const std::vector<Step>& steps,
                        const std::vector<int64_t>& max_dims, int64_t max_positions, int64_t n_thread) {
    Buffers buffers(kernels, max_dims, max_positions, n_thread);
    for (const Step& step : steps) buffers.add(step);
    return buffers.total();
}

}  // namespace lk::cpu
