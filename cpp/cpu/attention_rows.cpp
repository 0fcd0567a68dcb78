#include "cpu/attention_rows.h"

#include <algorithm>
#include <map>

namespace lk::cpu {
namespace {

constexpr int64_t kSerialCost = 1 << 15;  // multiplications below which waking threads costs more than it gives

int64_t whole(int64_t n) {
    return pieces_of(n, kLanes) * kLanes;
}

RowsTask task_of(const RowsAttention& a, const std::vector<int32_t>& rows, int64_t head_kv) {
    RowsTask t{};
    t.n = int64_t(rows.size()), t.rows = rows.data();
    t.n_head = a.n_head, t.n_head_kv = a.n_head_kv, t.head_kv = head_kv, t.group = a.n_head / a.n_head_kv;
    t.dim_k = a.dim_k, t.dim_v = a.dim_v, t.window = a.window, t.scale = a.scale;
    t.q = a.q, t.k = a.k, t.v = a.v;
    return t;
}

bool is_small(const RowsAttention& a, size_t longest) {
    return a.n_row * int64_t(longest) * a.n_head * (a.dim_k + a.dim_v) < kSerialCost;
}

// Some positions of a sequence, or some blocks of its keys.
struct Piece {
    const std::vector<int32_t>* rows;
    int64_t panels;  // where the panels of the sequence begin, in keys
    int64_t begin, count;
};

}  // namespace

std::vector<std::vector<int32_t>> rows_of_sequences(const int32_t* sequences, int64_t n_row) {
    std::map<int32_t, std::vector<int32_t>> found;
    for (int64_t r = 0; r < n_row; ++r) found[sequences[r]].push_back(int32_t(r));
    std::vector<std::vector<int32_t>> lists;
    for (auto& [sequence, rows] : found) lists.push_back(std::move(rows));
    // The longest first, so that no thread begins it last.
    std::stable_sort(lists.begin(), lists.end(), [](const auto& x, const auto& y) { return x.size() > y.size(); });
    return lists;
}

WorkspaceFloats attention_floats(const KernelTable& kernels, const RowsAttention& a, bool back) {
    const RowsKernels& table = kernels.training->rows;
    const std::vector<int32_t> rows(static_cast<size_t>(a.n_row));
    const RowsTask t = task_of(a, rows, 0);
    if (back) return {0, 0, table.back_scratch(t)};
    const int64_t n_key = pieces_of(a.n_row, kKeyBlock) * kKeyBlock;
    return {n_key * (a.dim_k + whole(a.dim_v)) * a.n_head_kv, 0, table.scratch(t)};
}

void attend_rows(const KernelTable& kernels, Pool& pool, Workspace& memory, const RowsAttention& a, float* out,
                 float* log_sum_exp) {
    if (a.n_row == 0) return;
    const RowsKernels& table = kernels.training->rows;
    const auto lists = rows_of_sequences(a.sequences, a.n_row);
    const bool serial = is_small(a, lists[0].size());
    const int64_t group = a.n_head / a.n_head_kv, step = std::max<int64_t>(1, kQueryRows / group);
    std::vector<Piece> queries, keys;
    int64_t n_key = 0;  // of all sequences, in whole blocks
    for (const auto& rows : lists) {
        const int64_t n = int64_t(rows.size());
        for (int64_t p = 0; p < n; p += step) queries.push_back({&rows, n_key, p, std::min(step, n - p)});
        for (int64_t block = 0; block * kKeyBlock < n; ++block) keys.push_back({&rows, n_key, block, 1});
        n_key += pieces_of(n, kKeyBlock) * kKeyBlock;
    }
    const int64_t per_key = a.dim_k + whole(a.dim_v);
    float* panels = memory.shared(n_key * per_key * a.n_head_kv);
    const auto with_panels = [&](const Piece& piece, int64_t head_kv) {
        RowsTask t = task_of(a, *piece.rows, head_kv);
        t.k_panels = panels + (head_kv * n_key + piece.panels) * per_key;
        t.v_panels = t.k_panels + pieces_of(t.n, kKeyBlock) * kKeyBlock * a.dim_k;
        t.out = out, t.log_sum_exp = log_sum_exp;
        return t;
    };
    run_on(pool, serial, int64_t(keys.size()) * a.n_head_kv, [&](int64_t i, int) {
        const Piece& piece = keys[size_t(i / a.n_head_kv)];
        table.pack(with_panels(piece, i % a.n_head_kv), piece.begin, piece.begin + 1);
    });
    const int64_t n_query = int64_t(queries.size());
    run_on(pool, serial, n_query * a.n_head_kv, [&](int64_t i, int thread) {
        const Piece& piece = queries[size_t(n_query - 1 - i / a.n_head_kv)];  // late ones see the most
        const RowsTask t = with_panels(piece, i % a.n_head_kv);
        table.attend(t, piece.begin, piece.count, memory.own(thread, table.scratch(t)));
    });
}

void attend_rows_back(const KernelTable& kernels, Pool& pool, Workspace& memory, const RowsAttention& a,
                      const float* out, const float* log_sum_exp, const float* dout, float* dq, float* dk, float* dv) {
    if (a.n_row == 0) return;
    const RowsKernels& table = kernels.training->rows;
    const auto lists = rows_of_sequences(a.sequences, a.n_row);
    run_on(pool, is_small(a, lists[0].size()), int64_t(lists.size()) * a.n_head_kv, [&](int64_t i, int thread) {
        RowsTask t = task_of(a, lists[size_t(i / a.n_head_kv)], i % a.n_head_kv);
        t.out = const_cast<float*>(out), t.log_sum_exp = const_cast<float*>(log_sum_exp);
        t.dout = dout, t.dq = dq, t.dk = dk, t.dv = dv;
        table.attend_back(t, memory.own(thread, table.back_scratch(t)));
    });
}

}  // namespace lk::cpu
