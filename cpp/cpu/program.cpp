#include "cpu/program.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace lk::cpu {
void fail(const Step& step, const std::string& message) {
    throw std::invalid_argument("node " + step.name + ": " + message);
}

void check_range(const Step& step, const char* what, const int32_t* values, int64_t n, int64_t end, int64_t begin) {
    for (int64_t i = 0; i < n; ++i)
        if (values[i] < begin || values[i] >= end)
            fail(step, std::string(what) + " " + std::to_string(values[i]) + " is outside " + std::to_string(begin) +
                           ".." + std::to_string(end - 1));
}

Program::Program(std::shared_ptr<Pool> pool, const KernelTable& kernels, std::vector<Step> steps, int64_t arena_floats,
                 const int32_t* inputs, std::shared_ptr<KVCache> kv, std::shared_ptr<AdapterTable> adapters,
                 std::vector<int64_t> max_dims, int64_t max_seqs, int64_t blocks_per_seq)
    : pool_(std::move(pool)),
      kernels_(kernels),
      steps_(std::move(steps)),
      inputs_(inputs),
      kv_(std::move(kv)),
      adapters_(std::move(adapters)),
      max_dims_(std::move(max_dims)),
      max_seqs_(max_seqs),
      blocks_per_seq_(blocks_per_seq),
      threads_few_(pool_->size()),
      threads_many_(pool_->size()),
      memory_(pool_->size()) {
    arena_ = std::make_unique<Arena>(size_t(std::max<int64_t>(arena_floats, 16)) * 4);
    scratch_.resize(size_t(pool_->size()));
    panels_.resize(size_t(pool_->size()));
}

int64_t Program::n_rows(const Value& v) const {
    return v.dim < 0 ? v.n_fixed : sizes_.dims[size_t(v.dim)];
}

// Rows in parallel where that is worth it. A row is always computed whole by one thread.
void Program::for_rows(int64_t n, int64_t cost, const std::function<void(int64_t)>& body) {
    if (n * cost < kSerialCost) {
        for (int64_t i = 0; i < n; ++i) body(i);
        return;
    }
    const int64_t chunk = std::max<int64_t>(1, n / (4 * pool_->n_thread()));
    pool_->run((n + chunk - 1) / chunk, [&](int64_t c, int) {
        for (int64_t i = c * chunk; i < std::min(n, (c + 1) * chunk); ++i) body(i);
    });
}

void Program::run(const Sizes& sizes) {
    sizes_ = sizes;
    check();
    const Pool::Here here(*pool_);
    pool_->use(sizes.dims.empty() || sizes.dims[0] >= kManyRows ? threads_many_ : threads_few_);
    cos_sin_table_ = -1;
    for (Prepared& each : prepared_) each.of = nullptr;
    for (const Step& step : steps_) {
        run_step(step);
        for (Prepared& each : prepared_) {  // is of no use when the memory has another value now
            for (const Value& out : step.outs)
                if (at(out) == each.of) each.of = nullptr;
            for (const LinearPart& part : step.parts)
                if (at(part.out) == each.of) each.of = nullptr;
            for (const auto& state : step.states)
                if (state && reinterpret_cast<const float*>(state->data()) == each.of) each.of = nullptr;
        }
    }
}

void Program::run_step(const Step& step) {
    switch (step.kind) {
        case StepKind::linears:
            return linears(step);
        case StepKind::embedding:
            return embedding(step);
        case StepKind::rms_norm:
            return rms_norm(step);
        case StepKind::layer_norm:
            return layer_norm(step);
        case StepKind::rope:
            return rope(step);
        case StepKind::attention:
            return attention(step);
        case StepKind::experts:
            return experts(step);
        case StepKind::add:
        case StepKind::mul:
        case StepKind::scale:
        case StepKind::gated:
        case StepKind::activation:
        case StepKind::soft_cap:
            return elementwise(step);
        case StepKind::select_rows:
            return select_rows(step);
        case StepKind::matmul:
            return matmul(step);
        case StepKind::cross_entropy:
        case StepKind::cross_entropy_grad:
            return cross_entropy(step);
        case StepKind::write_state:
        case StepKind::add_state:
            return change_state(step);
        case StepKind::linear_back:
            return linear_back(step);
        case StepKind::rms_norm_back:
            return rms_norm_back(step);
        case StepKind::layer_norm_back:
            return layer_norm_back(step);
        case StepKind::attention_back:
            return attention_back(step);
        case StepKind::gated_back:
            return gated_back(step);
        case StepKind::scatter_rows:
            return scatter_rows(step);
        case StepKind::sum_rows:
            return sum_rows(step);
        case StepKind::experts_back:
            return experts_back(step);
        case StepKind::head_loss:
            return head_loss(step);
        case StepKind::map:
            return run_map(step);
        case StepKind::reduce:
            return reduce(step);
    }
    fail(step, "its kind is not known");
}

// Every index that a step reads from the inputs, before anything runs.
void Program::check() const {
    if (sizes_.dims.size() != max_dims_.size()) throw std::invalid_argument("other free sizes than the program has");
    for (size_t i = 0; i < max_dims_.size(); ++i)
        if (sizes_.dims[i] < 0 || sizes_.dims[i] > max_dims_[i])
            throw std::invalid_argument("a size is larger than what the program was compiled for");
    for (const Step& step : steps_) {
        const StepKind kind = step.kind;
        const int64_t n = kind == StepKind::embedding ? n_rows(step.out()) : step.in.empty() ? 0 : n_rows(step.in[0]);
        if (kind == StepKind::embedding) check_range(step, "token", ints(step, 0), n, step.weight->view.n_out);
        if (kind == StepKind::select_rows) check_range(step, "row", ints(step, 0), n_rows(step.out()), n);
        if (kind == StepKind::cross_entropy || kind == StepKind::cross_entropy_grad)
            check_range(step, "target", ints(step, 0), n, step.in[0].width, -1);
        if (kind == StepKind::attention || kind == StepKind::attention_back) check_attention(step);
        if (kind == StepKind::head_loss) check_range(step, "target", ints(step, 0), n, step.weight->view.n_out, -1);
        if (kind == StepKind::scatter_rows)
            check_range(step, "row", ints(step, 0), n,
                        step.states[0] ? step.states[0]->size() / step.in[0].width : n_rows(step.in[1]));
        const bool adapted = kind == StepKind::linears || kind == StepKind::rms_norm || kind == StepKind::embedding;
        if (adapted && ints(step, step.ints.size() - 1) && adapters_)
            check_range(step, "adapter slot", ints(step, step.ints.size() - 1), n, adapters_->n_slot + 1);
    }
}

// Runs of rows with an adapter for the step's weight; empty without a table or an input of slots.
std::vector<AdapterRun> Program::adapter_runs(const Step& step, const std::string& target, const Weight& weight,
                                              int64_t n) const {
    const int32_t* slots = adapters_ ? ints(step, step.ints.size() - 1) : nullptr;
    if (!slots) return {};
    auto runs = adapters_->runs(slots, n, target);
    for (const AdapterRun& run : runs) {
        const Adapter& a = *run.adapter;
        const bool fits = weight.is_vector() ? int64_t(a.delta.size()) == weight.view.n_out * weight.view.n_in
                                             : a.rank() > 0 && a.b.n_in == a.rank() && a.a.n_in == weight.view.n_in &&
                                                   a.b.n_out == weight.view.n_out;
        if (!fits) fail(step, "its adapter has another shape");
    }
    return runs;
}

void Program::embedding(const Step& step) {
    const int32_t* tokens = ints(step, 0);
    const int64_t width = step.out().width, n = n_rows(step.out());
    for_rows(n, width,
             [&](int64_t r) { read_row(kernels_, step.weight->view, tokens[r], at(step.out()) + r * width); });
    const auto runs = adapter_runs(step, step.target, *step.weight, n);
    unpack_rows(kernels_, runs);
    for (const AdapterRun& run : runs)
        for_rows(run.count, run.adapter->rank() * width, [&](int64_t i) {
            std::vector<float> middle;
            const int64_t r = run.from + i;
            apply_embedding(kernels_, *run.adapter, tokens[r], width, at(step.out()) + r * width, middle);
        });
}

std::vector<const Adapter*> Program::norm_adapters(const Step& step) {
    const int64_t n = n_rows(step.in[0]);
    std::vector<const Adapter*> adapters;  // by row
    for (const AdapterRun& run : adapter_runs(step, step.target, *step.weight, n)) {
        adapters.resize(size_t(n));
        std::fill_n(adapters.begin() + run.from, run.count, run.adapter);
    }
    return adapters;
}

void Program::norm_row(const Step& step, const std::vector<const Adapter*>& adapters, int64_t row) {
    const Value& in = step.in[0];
    const int64_t dim = in.width / in.n_head;
    const Adapter* adapter = adapters.empty() ? nullptr : adapters[size_t(row)];
    for (int64_t h = 0; h < in.n_head; ++h) {
        const int64_t from = row * in.width + h * dim;
        kernels_.rms_norm(at(in) + from, step.weight->vector, adapter ? adapter->delta.data() : nullptr,
                          adapter ? adapter->scale : 0.0f, step.epsilon, dim, at(step.out()) + from);
    }
}

void Program::rms_norm(const Step& step) {
    const auto adapters = norm_adapters(step);
    for_rows(n_rows(step.in[0]), step.in[0].width, [&](int64_t r) { norm_row(step, adapters, r); });
}

void Program::layer_norm(const Step& step) {
    const Value& in = step.in[0];
    const int64_t dim = in.width / in.n_head;
    const float* bias = step.other ? step.other->vector : nullptr;
    for_rows(n_rows(in), in.width, [&](int64_t r) {
        for (int64_t from = r * in.width; from < (r + 1) * in.width; from += dim)
            kernels_.layer_norm(at(in) + from, step.weight->vector, bias, step.epsilon, dim, at(step.out()) + from);
    });
}

void Program::rope(const Step& step) {
    const Value& in = step.in[0];
    const int32_t* positions = ints(step, 0);
    const int64_t n = n_rows(in), n_rot = int64_t(step.rope.inv_freq.size()) * 2;
    if (cos_sin_table_ != step.table) {  // the ropes of all layers share one table
        cos_sin_.resize(size_t(n * n_rot));
        for_rows(n, n_rot * 32, [&](int64_t r) {
            fill_cos_sin(step.rope, positions[r], step.rope.magnitude, &cos_sin_[size_t(r * n_rot)]);
        });
        cos_sin_table_ = step.table;
    }
    for_rows(n, in.width, [&](int64_t r) {
        kernels_.rope(at(in) + r * in.width, &cos_sin_[size_t(r * n_rot)], in.n_head, in.width / in.n_head, n_rot,
                      step.rope.adjacent, at(step.out()) + r * in.width);
    });
}

void Program::elementwise(const Step& step) {
    const int64_t width = step.out().width;
    const float *a = at(step.in[0]), *b = step.in.size() > 1 ? at(step.in[1]) : nullptr;
    float* y = at(step.out());
    for_rows(n_rows(step.out()), width, [&](int64_t r) {
        const int64_t from = r * width;
        if (step.kind == StepKind::add)
            kernels_.add(a + from, b + from, width, y + from);
        else if (step.kind == StepKind::mul)
            kernels_.mul(a + from, b + from, width, y + from);
        else if (step.kind == StepKind::scale)
            kernels_.scale(a + from, step.factor, width, y + from);
        else if (step.slope)
            kernels_.training->slopes(a + from, step.activation, width, y + from);
        else if (step.kind == StepKind::activation || step.kind == StepKind::soft_cap)
            kernels_.activate(a + from, step.activation, step.cap, width, y + from);
        else
            kernels_.gated(a + from, b + from, step.gelu, width, y + from);
    });
}

void Program::select_rows(const Step& step) {
    const int32_t* rows = ints(step, 0);
    const int64_t width = step.out().width;
    for (int64_t r = 0; r < n_rows(step.out()); ++r)
        std::memcpy(at(step.out()) + r * width, at(step.in[0]) + rows[r] * width, size_t(width) * 4);
}

void Program::cross_entropy(const Step& step) {
    const int32_t* targets = ints(step, 0);
    const Value& in = step.in[0];
    for_rows(n_rows(in), in.width * 4, [&](int64_t r) {
        const float* x = at(in) + r * in.width;
        const bool counts = targets[r] >= 0;
        const float top = kernels_.maximum(x, in.width), sum = kernels_.exp_sum(x, top, in.width);
        if (step.kind == StepKind::cross_entropy) {
            at(step.out())[r] = counts ? top + std::log(sum) - x[targets[r]] : 0.0f;
        } else {
            float* y = at(step.out()) + r * in.width;
            kernels_.exp_scale(x, top, counts ? 1.0f / sum : 0.0f, in.width, y);
            if (counts) y[targets[r]] -= 1.0f;
        }
    });
}

void Program::change_state(const Step& step) {
    float* to = step.states[0]->floats();
    const Value& x = step.in[0];
    const float* from = at(x);
    if (from == to && step.kind == StepKind::write_state) return;  // it was made there
    for_rows(n_rows(x), x.width, [&](int64_t r) {
        const int64_t at = r * x.width;
        if (step.kind == StepKind::write_state)
            std::memcpy(to + at, from + at, size_t(x.width) * 4);
        else
            kernels_.add(to + at, from + at, x.width, to + at);
    });
}

}  // namespace lk::cpu
