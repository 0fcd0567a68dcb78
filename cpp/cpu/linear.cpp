// Linears that share their input: its preparation, and the panels of all of them from one counter.
#include <algorithm>

#include "cpu/program.h"

namespace lk::cpu {
namespace {

constexpr int64_t kRowsPerTask = 24;  // a multiple of every tile

int64_t panels_of(const WeightView& w) {
    return (w.n_out + kLanes - 1) / kLanes;
}

// Panels [begin, end) and rows [from, to) of one part.
struct Chunk {
    size_t part;
    int64_t begin, end, from, to;
};

}  // namespace

// Room for n rows in a form, not yet filled.
void Program::Prepared::hold(ActForm form, int64_t n, int64_t width, bool integer) {
    values.resize(size_t(integer ? n * width : n * (width + 1) * 4));
    if (integer) {
        scales.resize(size_t(n * width / 32));
        sums.resize(size_t(n * width / 16));
    }
    view = {form, n, width, values.data(), scales.data(), sums.data()};
    of = nullptr, started = {};
}

// The forms in which the parts take the input, after the norm if there is one.
void Program::prepare(const Step& step) {
    const Value& x = step.norm ? step.norm->out() : step.in[0];
    const int64_t n = n_rows(x), width = x.width;
    std::vector<ActView> views;
    struct Starts {
        Packing packing;
        const ActView* view;
        int32_t* at;
    };
    std::vector<Starts> starts;
    for (const LinearPart& part : step.parts) {
        const WeightView& weight = part.weight->view;
        Prepared& to = prepared_[size_t(weight.form)];
        const bool integer = weight.kind == WeightKind::quantised;
        const auto same = [&](const ActView& view) { return view.form == weight.form; };
        const bool made = std::any_of(views.begin(), views.end(), same);
        if (!made && (to.of != at(x) || step.norm)) {
            to.hold(weight.form, n, width, integer);
            to.of = at(x);
            views.push_back(to.view);
        }
        bool& started = to.started[size_t(weight.packing)];
        if (!integer || started) continue;
        started = true;
        auto& memory = to.starts[size_t(weight.packing)];
        memory.resize(size_t(n * width / 16));
        starts.push_back({weight.packing, &to.view, memory.data()});
    }
    if (views.empty() && starts.empty()) return;
    const auto adapters = step.norm ? norm_adapters(*step.norm) : std::vector<const Adapter*>();
    const int64_t rows = kRowsPerTask;
    const auto task = [&](int64_t i) {
        const int64_t from = i * rows, to = std::min(n, from + rows);
        for (int64_t r = from; step.norm && r < to; ++r) norm_row(*step.norm, adapters, r);
        for (const ActView& view : views) {
            const bool integer = view.form == ActForm::int8_32 || view.form == ActForm::int8_256;
            const int64_t tile = integer ? kernels_.int_tile : kernels_.float_tile;
            for (int64_t r = from; r < to; r += tile)
                kernels_.prepare(at(x), width, r, int(std::min(tile, n - r)), view);
        }
        for (const Starts& each : starts)
            for (int64_t r = from; r < to; r += kernels_.int_tile)
                kernels_.start_sums(each.packing, *each.view, r, int(std::min<int64_t>(kernels_.int_tile, n - r)),
                                    each.at);
    };
    for_rows((n + rows - 1) / rows, rows * width * 2, task);
}

LinearTask Program::linear_task(const Step& step, const LinearPart& part) const {
    LinearTask task{};
    task.weight = part.weight->view;
    const Prepared& prepared = prepared_[size_t(task.weight.form)];
    task.x = prepared.view, task.starts = prepared.starts[size_t(task.weight.packing)].data();
    task.bias = part.bias ? part.bias->vector : nullptr;
    task.y = at(part.out), task.ldy = part.out.width;
    if (step.in.size() > 1) {
        task.residual = at(step.in[1]), task.ld_residual = step.in[1].width;
        task.y = at(step.out()), task.ldy = step.out().width;
    }
    return task;
}

// Rows [from, to) of panels [begin, end), which are made first if the weight is not packed.
void Program::multiply(const LinearTask& task, int64_t from, int64_t to, int64_t begin, int64_t end, int thread) {
    if (task.weight.data != nullptr) return kernels_.linear(task, from, to, begin, end);
    auto& memory = panels_[size_t(thread)];
    const int64_t at = begin * kLanes;
    LinearTask part = task;
    WeightView up{};
    part.weight = panels_of(task.weight, begin, end, memory[0]);
    if (task.up != nullptr) {
        up = panels_of(*task.up, begin, end, memory[1]);
        part.up = &up;
    }
    part.y += at;
    if (task.bias != nullptr) part.bias += at;
    if (task.residual != nullptr) part.residual += at;
    kernels_.linear(part, from, to, 0, end - begin);
}

// y (n, n_out) = x (n, n_in) times a weight in the form in which it is served, as in a step of its own.
void Program::multiply_native(const WeightView& weight, const float* x, int64_t n, float* y) {
    const int64_t width = weight.n_in, n_panel = panels_of(weight);
    const bool integer = weight.kind == WeightKind::quantised;
    const int64_t tile = integer ? kernels_.int_tile : kernels_.float_tile;
    Prepared& to = prepared_[size_t(weight.form)];
    to.hold(weight.form, n, width, integer);
    auto& starts = to.starts[size_t(weight.packing)];
    if (integer) starts.resize(size_t(n * width / 16));
    for_rows((n + kRowsPerTask - 1) / kRowsPerTask, kRowsPerTask * width * 2, [&](int64_t i) {
        const int64_t end = std::min(n, (i + 1) * kRowsPerTask);
        for (int64_t r = i * kRowsPerTask; r < end; r += tile) {
            const int rows = int(std::min(tile, end - r));
            kernels_.prepare(x, width, r, rows, to.view);
            if (integer) kernels_.start_sums(weight.packing, to.view, r, rows, starts.data());
        }
    });
    LinearTask task{};
    task.weight = weight, task.x = to.view, task.starts = starts.data(), task.y = y, task.ldy = weight.n_out;
    pool_->run((n_panel + kPanelsPerChunk - 1) / kPanelsPerChunk, [&](int64_t i, int thread) {
        const int64_t begin = i * kPanelsPerChunk, end = std::min(n_panel, begin + kPanelsPerChunk);
        for (int64_t from = 0; from < n; from += kRowsPerChunk)
            multiply(task, from, std::min(n, from + kRowsPerChunk), begin, end, thread);
    });
}

void Program::linears(const Step& step) {
    const int64_t n = n_rows(step.norm ? step.norm->out() : step.in[0]);
    if (n == 0) return;
    if (!step.plain)
        prepare(step);
    else if (step.norm)
        rms_norm(*step.norm);
    const Value& x = step.norm ? step.norm->out() : step.in[0];
    deltas_.resize(std::max(deltas_.size(), step.parts.size()));
    bool adapted = false;
    size_t scratch = 0;
    std::vector<std::vector<AdapterRun>> runs;
    for (const LinearPart& part : step.parts) {
        runs.push_back(adapter_runs(step, part.target, *part.weight, n));
        adapted = adapted || !runs.back().empty();
        scratch = std::max(scratch, LinearDelta::scratch_bytes(kernels_, runs.back()));
    }
    for (auto& memory : scratch_)
        if (memory.size() < scratch) memory.resize(scratch);
    for (size_t i = 0; i < runs.size(); ++i)
        deltas_[i].multiply(kernels_, *pool_, scratch_, std::move(runs[i]), at(x), x.width, n);

    if (step.plain) return plain_linears(step);
    const bool together = step.gated && !adapted;  // both products of a gate in registers
    std::vector<LinearTask> tasks;
    std::vector<Chunk> chunks;
    int64_t cost = 0;
    for (size_t i = 0; i < (together ? 1 : step.parts.size()); ++i) {
        tasks.push_back(linear_task(step, step.parts[i]));
        LinearTask& task = tasks.back();
        if (together) {
            task.up = &step.parts[1].weight->view, task.gelu = step.gelu;
            task.y = at(step.out()), task.ldy = step.out().width;
        }
        const int64_t n_panel = panels_of(task.weight), bytes = task.weight.panel_bytes * (together ? 2 : 1);
        const int64_t least = task.weight.kind == WeightKind::quantised ? 1 : kFloatPanels;
        const int64_t panels =
            n >= 16 ? kPanelsPerChunk : std::clamp<int64_t>(kDecodeBytes / bytes, least, kPanelsPerChunk);
        const int64_t rows = adapted || task.weight.data == nullptr ? n : kRowsPerChunk;
        for (int64_t begin = 0; begin < n_panel; begin += panels)
            for (int64_t from = 0; from < n; from += rows)
                chunks.push_back({i, begin, std::min(n_panel, begin + panels), from, std::min(n, from + rows)});
        cost += n * task.weight.n_in * task.weight.n_out;
    }
    const auto run = [&](int64_t i, int thread) {
        const Chunk& c = chunks[size_t(i)];
        const LinearTask& task = tasks[c.part];
        uint8_t* memory = scratch_[size_t(thread)].data();
        deltas_[c.part].fetch(c.begin, c.end);
        multiply(task, c.from, c.to, c.begin, c.end, thread);
        deltas_[c.part].add(kernels_, c.begin, c.end, task.y, task.ldy, memory);
    };
    if (cost < kSerialCost)
        for (int64_t i = 0; i < int64_t(chunks.size()); ++i) run(i, 0);
    else
        pool_->run(int64_t(chunks.size()), run);
    if (step.gated && !together) gate(step);
}

void Program::gate(const Step& step) {
    const float *left = at(step.parts[0].out), *right = at(step.parts[1].out);
    const int64_t width = step.out().width;
    for_rows(n_rows(step.out()), width, [&](int64_t r) {
        kernels_.gated(left + r * width, right + r * width, step.gelu, width, at(step.out()) + r * width);
    });
}

}  // namespace lk::cpu
