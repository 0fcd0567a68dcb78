// Mixtures of experts: the rows of each expert side by side, then linears over all of them from one counter.
#include <algorithm>
#include <cmath>

#include "cpu/program.h"

namespace lk::cpu {
namespace {

bool is_integer(const WeightView& w) {
    return w.kind == WeightKind::quantised;
}

}  // namespace

// Outputs are whole panels, so those of one lie together.
WeightView expert_of(const WeightView& all, int64_t expert, int64_t n_expert) {
    WeightView one = all;
    one.n_out = all.n_out / n_expert;
    if (all.data != nullptr) one.data = all.data + expert * (one.n_out / kLanes) * all.panel_bytes;
    if (all.rows != nullptr) one.rows = all.rows + expert * one.n_out * all.row_bytes;
    return one;
}

// The experts of each row, the likeliest first and of equals the one with the lower number, and their shares.
void Program::route(const Step& step) {
    const Value& scores = step.in[1];
    const int64_t n = n_rows(scores), n_expert = scores.width, n_used = step.n_used;
    Experts& e = experts_;
    e.chosen.resize(size_t(n * n_used)), e.share.resize(size_t(n * n_used));
    for_rows(n, n_expert * 32, [&](int64_t row) {
        const float* s = at(scores) + row * n_expert;
        const float top = *std::max_element(s, s + n_expert);
        double all = 0.0, used = 0.0;
        for (int64_t i = 0; i < n_expert; ++i) all += std::exp(double(s[i] - top));
        int32_t* chosen = e.chosen.data() + row * n_used;
        float* share = e.share.data() + row * n_used;
        for (int64_t k = 0; k < n_used; ++k) {
            int64_t best = -1;
            for (int64_t i = 0; i < n_expert; ++i) {
                if (best >= 0 && !(s[i] > s[best])) continue;
                if (std::find(chosen, chosen + k, int32_t(i)) == chosen + k) best = i;
            }
            chosen[k] = int32_t(best);
            used += std::exp(double(s[best] - top));
        }
        const double whole = step.normalise ? used : all;
        for (int64_t k = 0; k < n_used; ++k) share[k] = float(std::exp(double(s[chosen[k]] - top)) / whole);
    });
    e.first.assign(size_t(n_expert) + 1, 0);
    for (const int32_t expert : e.chosen) ++e.first[size_t(expert) + 1];
    for (size_t i = 1; i < e.first.size(); ++i) e.first[i] += e.first[i - 1];
    e.place.resize(e.chosen.size());
    std::vector<int64_t> next(e.first.begin(), e.first.end() - 1);
    for (size_t i = 0; i < e.chosen.size(); ++i) e.place[i] = next[size_t(e.chosen[i])]++;
}

// Rows that lie by expert, in the form that a weight takes; tiles begin anew with each expert.
void Program::prepare_experts(const WeightView& weight, const float* rows, Experts::Prepared& to) {
    const Experts& e = experts_;
    const int64_t n = e.first.back(), width = weight.n_in;
    const bool integer = is_integer(weight);
    const bool pairs = weight.form == ActForm::bf16 && kernels_.bf16_bytes == 2;
    to.row_bytes = integer ? width : pairs ? (width + 1) / 2 * 4 : width * 4;
    to.per_scale = weight.form == ActForm::int8_256 ? kSuper : 32;
    to.values.resize(size_t(n * to.row_bytes));
    if (integer) {
        to.scales.resize(size_t(n * width / 32));
        to.sums.resize(size_t(n * width / 16));
        to.starts.resize(size_t(n * width / 16));
    }
    const int64_t tile = integer ? kernels_.int_tile : kernels_.float_tile;
    std::vector<std::pair<int64_t, int64_t>> tiles;  // expert, row within it
    for (size_t i = 0; i + 1 < e.first.size(); ++i)
        for (int64_t row = 0; row < e.first[i + 1] - e.first[i]; row += tile) tiles.emplace_back(int64_t(i), row);
    for_rows(int64_t(tiles.size()), tile * width * 2, [&](int64_t i) {
        const auto [expert, row] = tiles[size_t(i)];
        const int64_t first = e.first[size_t(expert)], count = e.first[size_t(expert) + 1] - first;
        const int size = int(std::min(tile, count - row));
        const ActView view = to.view(weight, first, count);
        kernels_.prepare(rows + first * width, width, row, size, view);
        if (integer) kernels_.start_sums(weight.packing, view, row, size, to.starts.data() + first * (width / 16));
    });
}

ActView Program::Experts::Prepared::view(const WeightView& weight, int64_t first, int64_t count) {
    const int64_t width = weight.n_in;
    return {weight.form,
            count,
            width,
            values.data() + first * row_bytes,
            scales.data() + first * (width / per_scale),
            sums.data() + first * (width / 16)};
}

// y = x W^T for the rows of every expert, with `up` gated; both of them lie by expert.
void Program::expert_linears(const Step& step, const WeightView& all, const WeightView* up, Experts::Prepared& x,
                             float* y) {
    const Experts& e = experts_;
    const int64_t n_expert = int64_t(e.first.size()) - 1, n_out = all.n_out / n_expert;
    struct Chunk {
        size_t task;
        int64_t begin, end, from, to;
    };
    std::vector<WeightView> ups;
    std::vector<LinearTask> tasks;
    std::vector<Chunk> chunks;
    ups.reserve(size_t(n_expert));  // tasks point into it
    int64_t cost = 0;
    for (int64_t i = 0; i < n_expert; ++i) {
        const int64_t first = e.first[size_t(i)], count = e.first[size_t(i) + 1] - first;
        if (count == 0) continue;
        LinearTask task{};
        task.weight = expert_of(all, i, n_expert);
        if (up) {
            ups.push_back(expert_of(*up, i, n_expert));
            task.up = &ups.back(), task.gelu = step.gelu;
        }
        task.x = x.view(task.weight, first, count);
        task.starts = x.starts.data() + first * (all.n_in / 16);
        task.y = y + first * n_out, task.ldy = n_out;
        const int64_t n_panel = n_out / kLanes, bytes = all.panel_bytes * (up ? 2 : 1);
        const int64_t panels =
            count >= kManyRows
                ? kPanelsPerChunk
                : std::clamp<int64_t>(kDecodeBytes / bytes, is_integer(all) ? 1 : kFloatPanels, kPanelsPerChunk);
        const int64_t rows = all.data == nullptr ? count : kRowsPerChunk;
        for (int64_t begin = 0; begin < n_panel; begin += panels)
            for (int64_t from = 0; from < count; from += rows)
                chunks.push_back(
                    {tasks.size(), begin, std::min(n_panel, begin + panels), from, std::min(count, from + rows)});
        tasks.push_back(task);
        cost += count * all.n_in * n_out;
    }
    const auto run = [&](int64_t i, int thread) {
        const Chunk& c = chunks[size_t(i)];
        multiply(tasks[c.task], c.from, c.to, c.begin, c.end, thread);
    };
    if (cost < kSerialCost)
        for (int64_t i = 0; i < int64_t(chunks.size()); ++i) run(i, 0);
    else
        pool_->run(int64_t(chunks.size()), run);
}

void Program::experts(const Step& step) {
    const Value& x = step.in[0];
    const int64_t n = n_rows(x), width = x.width, n_used = step.n_used;
    if (n == 0) return;
    const WeightView &gate = step.parts[0].weight->view, &up = step.parts[1].weight->view;
    const WeightView& down = step.parts[2].weight->view;
    const int64_t n_ff = down.n_in, n_pair = n * n_used;
    route(step);
    Experts& e = experts_;
    e.rows.resize(size_t(n_pair * width)), e.hidden.resize(size_t(n_pair * n_ff));
    e.out.resize(size_t(n_pair * step.out().width));
    for_rows(n, n_used * width, [&](int64_t row) {
        const float* from = at(x) + row * width;
        for (int64_t k = 0; k < n_used; ++k)
            std::copy_n(from, width, e.rows.data() + e.place[size_t(row * n_used + k)] * width);
    });
    prepare_experts(gate, e.rows.data(), e.prepared);
    if (gate.kind == up.kind && gate.packing == up.packing) {
        expert_linears(step, gate, &up, e.prepared, e.hidden.data());
    } else {
        e.other.resize(e.hidden.size());
        expert_linears(step, gate, nullptr, e.prepared, e.hidden.data());
        prepare_experts(up, e.rows.data(), e.prepared);
        expert_linears(step, up, nullptr, e.prepared, e.other.data());
        for_rows(n_pair, n_ff, [&](int64_t row) {
            float* h = e.hidden.data() + row * n_ff;
            kernels_.gated(h, e.other.data() + row * n_ff, step.gelu, n_ff, h);
        });
    }
    prepare_experts(down, e.hidden.data(), e.prepared);
    expert_linears(step, down, nullptr, e.prepared, e.out.data());
    const int64_t n_out = step.out().width;
    for_rows(n, n_used * n_out, [&](int64_t row) {  // in the order of the shares, whoever else is in the step
        float* y = at(step.out()) + row * n_out;
        for (int64_t k = 0; k < n_used; ++k) {
            const size_t pair = size_t(row * n_used + k);
            const float* part = e.out.data() + e.place[pair] * n_out;
            if (k == 0)
                kernels_.scale(part, e.share[pair], n_out, y);
            else
                kernels_.axpy(e.share[pair], part, n_out, y);
        }
    });
}

}  // namespace lk::cpu
