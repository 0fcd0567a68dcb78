#include "cpu/program.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace lk::cpu {
void fail(const Step& step, const std::string& message) {
    throw std::invalid_argument("node " + step.name + ": " + message);
}

void check_range(const Step& step, const char* what, const int32_t* values, int64_t n, int64_t end) {
    for (int64_t i = 0; i < n; ++i)
        if (values[i] < 0 || values[i] >= end)
            fail(step,
                 std::string(what) + " " + std::to_string(values[i]) + " is outside 0.." + std::to_string(end - 1));
}

Program::Program(std::shared_ptr<Pool> pool, const KernelTable& kernels, std::vector<Step> steps, int64_t arena_floats,
                 const int32_t* inputs, std::shared_ptr<KVCache> kv, std::shared_ptr<AdapterTable> adapters,
                 int64_t max_rows, int64_t max_seqs, int64_t blocks_per_seq)
    : pool_(std::move(pool)),
      kernels_(kernels),
      steps_(std::move(steps)),
      inputs_(inputs),
      kv_(std::move(kv)),
      adapters_(std::move(adapters)),
      max_rows_(max_rows),
      max_seqs_(max_seqs),
      blocks_per_seq_(blocks_per_seq),
      threads_few_(pool_->size()),
      threads_many_(pool_->size()) {
    arena_ = std::make_unique<Arena>(size_t(std::max<int64_t>(arena_floats, 16)) * 4);
    scratch_.resize(size_t(pool_->size()));
    panels_.resize(size_t(pool_->size()));
}

int64_t Program::n_rows(const Value& v) const {
    return v.rows == Rows::rows ? sizes_.rows : v.rows == Rows::out_rows ? sizes_.out_rows : v.n_fixed;
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
    pool_->use(sizes.rows < kManyRows ? threads_few_ : threads_many_);
    cos_sin_table_ = -1;
    for (Prepared& each : prepared_) each.offset = -1;
    for (const Step& step : steps_) {
        if (step.kind == "linears")
            linears(step);
        else if (step.kind == "embedding")
            embedding(step);
        else if (step.kind == "rms_norm")
            rms_norm(step);
        else if (step.kind == "rope")
            rope(step);
        else if (step.kind == "attention")
            attention(step);
        else if (step.kind == "experts")
            experts(step);
        else if (step.kind == "select_rows")
            select_rows(step);
        else if (step.kind == "matmul")
            matmul(step);
        else if (step.kind == "cross_entropy" || step.kind == "cross_entropy_grad")
            cross_entropy(step);
        else if (step.kind == "read_state" || step.kind == "write_state")
            state(step);
        else
            elementwise(step);
        for (Prepared& each : prepared_) {  // is of no use when the memory has another value now
            if (step.out.offset == each.offset) each.offset = -1;
            for (const LinearPart& part : step.parts)
                if (part.out.offset == each.offset) each.offset = -1;
        }
    }
}

// Every index that a step reads from the inputs, before anything runs.
void Program::check() const {
    if (sizes_.rows < 0 || sizes_.rows > max_rows_ || sizes_.seqs < 0 || sizes_.seqs > max_seqs_)
        throw std::invalid_argument("more rows or sequences than the program was compiled for");
    for (const Step& step : steps_) {
        const int64_t n = step.kind == "embedding" ? n_rows(step.out) : step.in.empty() ? 0 : n_rows(step.in[0]);
        if (step.kind == "embedding") check_range(step, "token", ints(step, 0), n, step.weight->view.n_out);
        if (step.kind == "select_rows") check_range(step, "row", ints(step, 0), n_rows(step.out), n);
        if (step.kind.starts_with("cross_entropy")) check_range(step, "target", ints(step, 0), n, step.in[0].width);
        if (step.kind == "attention") check_attention(step);
        const bool adapted = step.kind == "linears" || step.kind == "rms_norm" || step.kind == "embedding";
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
        const bool fits = !weight.vector.empty() ? a.delta.size() == weight.vector.size()
                                                 : a.rank() > 0 && a.b.n_in == a.rank() &&
                                                       a.a.n_in == weight.view.n_in && a.b.n_out == weight.view.n_out;
        if (!fits) fail(step, "its adapter has another shape");
    }
    return runs;
}

void Program::embedding(const Step& step) {
    const int32_t* tokens = ints(step, 0);
    const int64_t width = step.out.width, n = n_rows(step.out);
    for_rows(n, width, [&](int64_t r) { read_row(kernels_, step.weight->view, tokens[r], at(step.out) + r * width); });
    const auto runs = adapter_runs(step, step.target, *step.weight, n);
    unpack_rows(kernels_, runs);
    for (const AdapterRun& run : runs)
        for_rows(run.count, run.adapter->rank() * width, [&](int64_t i) {
            std::vector<float> middle;
            const int64_t r = run.from + i;
            apply_embedding(kernels_, *run.adapter, tokens[r], width, at(step.out) + r * width, middle);
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
        kernels_.rms_norm(at(in) + from, step.weight->vector.data(), adapter ? adapter->delta.data() : nullptr,
                          adapter ? adapter->scale : 0.0f, float(step.numbers[0]), dim, at(step.out) + from);
    }
}

void Program::rms_norm(const Step& step) {
    const auto adapters = norm_adapters(step);
    for_rows(n_rows(step.in[0]), step.in[0].width, [&](int64_t r) { norm_row(step, adapters, r); });
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
                      step.rope.adjacent, at(step.out) + r * in.width);
    });
}

void Program::elementwise(const Step& step) {
    const int64_t width = step.out.width;
    const float *a = at(step.in[0]), *b = step.in.size() > 1 ? at(step.in[1]) : nullptr;
    float* y = at(step.out);
    for_rows(n_rows(step.out), width, [&](int64_t r) {
        const int64_t from = r * width;
        if (step.kind == "add")
            kernels_.add(a + from, b + from, width, y + from);
        else if (step.kind == "mul")
            kernels_.mul(a + from, b + from, width, y + from);
        else if (step.kind == "scale")
            kernels_.scale(a + from, float(step.numbers[0]), width, y + from);
        else if (step.kind == "gated")
            kernels_.gated(a + from, b + from, step.numbers[0] != 0, width, y + from);
        else
            fail(step, "op " + step.kind + " is not known");
    });
}

void Program::select_rows(const Step& step) {
    const int32_t* rows = ints(step, 0);
    const int64_t width = step.out.width;
    for (int64_t r = 0; r < n_rows(step.out); ++r)
        std::memcpy(at(step.out) + r * width, at(step.in[0]) + rows[r] * width, size_t(width) * 4);
}

// Plain products of activations: training's; each output is one sum in order.
void Program::matmul(const Step& step) {
    const bool ta = step.numbers[0] != 0, tb = step.numbers[1] != 0;
    const Value &a = step.in[0], &b = step.in[1];
    const int64_t m = n_rows(step.out), n = step.out.width, inner = ta ? n_rows(a) : a.width;
    for_rows(m, n * inner, [&](int64_t i) {
        float* y = at(step.out) + i * n;
        std::fill_n(y, n, 0.0f);
        for (int64_t k = 0; k < inner; ++k) {
            const float x = ta ? at(a)[k * a.width + i] : at(a)[i * a.width + k];
            if (!tb)
                kernels_.axpy(x, at(b) + k * b.width, n, y);
            else
                for (int64_t j = 0; j < n; ++j) y[j] += x * at(b)[j * b.width + k];
        }
    });
}

void Program::cross_entropy(const Step& step) {
    const int32_t* targets = ints(step, 0);
    const Value& in = step.in[0];
    for_rows(n_rows(in), in.width * 4, [&](int64_t r) {
        const float* x = at(in) + r * in.width;
        const float top = kernels_.maximum(x, in.width), sum = kernels_.exp_sum(x, top, in.width);
        if (step.kind == "cross_entropy") {
            at(step.out)[r] = top + std::log(sum) - x[targets[r]];
        } else {
            float* y = at(step.out) + r * in.width;
            kernels_.exp_scale(x, top, 1.0f / sum, in.width, y);
            y[targets[r]] -= 1.0f;
        }
    });
}

void Program::state(const Step& step) {
    const size_t n = step.state->size();
    if (step.kind == "read_state") {
        std::memcpy(at(step.out), step.state->data(), n * 4);
    } else {
        std::memcpy(step.state->data(), at(step.in[0]), n * 4);
        std::memcpy(at(step.out), at(step.in[0]), n * 4);
    }
}

}  // namespace lk::cpu
