// Attention of the rows of a step among themselves, and its gradients, by blocks of queries and keys whose products are
// those of gemm-inl.h. Forward keeps a running maximum (Milakov and Gimelshein 2018, arXiv:1805.02867); backward makes
// the weights again from the log-sum-exp (Dao et al. 2022, arXiv:2205.14135). Blocks are counted from the beginning of
// a sequence, so bits do not depend on what else is in the step. Included by units of kernels, inside their anonymous
// namespace.

constexpr float kLog2E = 1.44269504f;
constexpr float kHidden = -1e30f;
constexpr int64_t kKeyPanels = kKeyBlock / kLanes;

LK_INLINE int64_t padded(int64_t n) {
    return (n + kLanes - 1) / kLanes * kLanes;
}

// Queries of a block: `n_position` positions from p_begin on, all heads that share the KV head.
struct QueryBlock {
    const RowsTask& t;
    int64_t p_begin, n_position;
    int64_t rows() const { return n_position * t.group; }
    int64_t position(int64_t row) const { return p_begin + row / t.group; }
    int64_t head(int64_t row) const { return t.head_kv * t.group + row % t.group; }
    int64_t first(int64_t p) const { return t.window > 0 && p + 1 > t.window ? p + 1 - t.window : 0; }
    // Where row's part of a tensor (rows, n_head, dim) lies.
    int64_t at(int64_t row, int64_t dim) const { return (int64_t(t.rows[position(row)]) * t.n_head + head(row)) * dim; }
};

// A block of keys beside a block of queries: keys [begin, begin + n) of the sequence that any of them sees.
struct KeyBlock {
    int64_t index, begin, n;
};

LK_INLINE KeyBlock key_block(const QueryBlock& q, int64_t index) {
    const int64_t begin = index * kKeyBlock, left = q.p_begin + q.n_position - begin;
    return {index, begin, left < kKeyBlock ? left : kKeyBlock};
}

// Keys of the block that a row sees, counted from its beginning; none if from >= to.
LK_INLINE void seen_of(const QueryBlock& q, const KeyBlock& k, int64_t row, int64_t& from, int64_t& to) {
    const int64_t p = q.position(row);
    from = q.first(p) - k.begin, to = p + 1 - k.begin;
    from = from > 0 ? from : 0, to = to < k.n ? to : k.n;
}

// C (m, n) (+)= A (m, k) B, with B's panels [k][16] `b_panel` floats apart; n is a multiple of 16 in C.
LK_INLINE void block_product(int64_t m, int64_t n, int64_t k, Strided a, const float* b, int64_t b_panel, bool add,
                             float* c, int64_t c_row) {
    ProductTask t{};
    t.m = m, t.k = k, t.a = a, t.n_end = padded(n), t.add = add, t.c = c, t.c_row = c_row;
    multiply_panels(t, b, b_panel, 0, padded(n) / kLanes);
}

// Rows [0, n) of `dim` floats, at x[i], to panels along their dimensions: [dim / 16][rows][16], `rows` of them apart.
template <class RowOf>
LK_INLINE void panels_by_row(RowOf row_of, int64_t n, int64_t rows, int64_t dim, float* out) {
    for (int64_t i = 0; i < n; ++i) {
        const float* x = row_of(i);
        for (int64_t d = 0; d < dim; d += kLanes)
            store(out + (d * rows + i * kLanes), take(x + d, dim - d < kLanes ? dim - d : kLanes));
    }
}

// The same rows to panels of sixteen rows: [rows / 16][dim][16], zeros beyond n.
template <class RowOf>
LK_INLINE void panels_across(RowOf row_of, int64_t n, int64_t dim, float* out) {
    for (int64_t i = 0; i < n; i += kLanes, out += dim * kLanes)
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            const float* x = i + lane < n ? row_of(i + lane) : nullptr;
            for (int64_t d = 0; d < dim; ++d) out[d * kLanes + lane] = x ? x[d] : 0.0f;
        }
}

// Keys and values of the sequence in blocks, as forward wants them: keys [block][4][dim_k][16], values
// [block][dim_v / 16][64][16].
void rows_pack(const RowsTask& t, int64_t begin, int64_t end) {
    const auto key = [&](int64_t i)
                         LK_LAMBDA { return t.k + (int64_t(t.rows[i]) * t.n_head_kv + t.head_kv) * t.dim_k; };
    const auto value = [&](int64_t i)
                           LK_LAMBDA { return t.v + (int64_t(t.rows[i]) * t.n_head_kv + t.head_kv) * t.dim_v; };
    for (int64_t block = begin; block < end; ++block) {
        const int64_t at = block * kKeyBlock, n = t.n - at < kKeyBlock ? t.n - at : kKeyBlock;
        panels_across([&](int64_t i) LK_LAMBDA { return key(at + i); }, n, t.dim_k, t.k_panels + at * t.dim_k);
        panels_by_row([&](int64_t i) LK_LAMBDA { return value(at + i); }, n, kKeyBlock, t.dim_v,
                      t.v_panels + at * padded(t.dim_v));
    }
}

// Rows of (rows, n_head, dim) of a block, times a factor, side by side.
LK_INLINE void gather(const QueryBlock& q, const float* x, int64_t dim, float factor, float* out) {
    for (int64_t row = 0; row < q.rows(); ++row) scale(x + q.at(row, dim), factor, dim, out + row * padded(dim));
}

// Scores of one row, in units of log2, to weights; takes what the row had so far to the new maximum.
LK_INLINE void soften_row(float* s, int64_t from, int64_t to, int64_t n, int64_t dim, float& top, float& total,
                          float* out) {
    Floats tops = splat(top);
    for (int64_t i = 0; i < from; ++i) s[i] = kHidden;
    for (int64_t i = to; i < padded(n); ++i) s[i] = kHidden;
    for (int64_t i = 0; i < n; i += kLanes) tops = max(load(s + i), tops);
    const float highest = maximum(tops);
    Floats sums = splat(0.0f);
    for (int64_t i = 0; i < n; i += kLanes) {
        const Floats w = exp2_below<false>(load(s + i) - splat(highest));
        sums = sums + w;
        store(s + i, w);
    }
    if (highest != top) {
        float before[kLanes];
        store(before, exp2_below<false>(splat(top - highest)));
        scale(out, before[0], dim, out);
        total *= before[0];
    }
    total += sum(sums), top = highest;
}

int64_t rows_scratch(const RowsTask& t) {
    const int64_t rows = kQueryRows > t.group ? kQueryRows : t.group;
    return rows * (padded(t.dim_k) + padded(t.dim_v) + kKeyBlock + 2);
}

// Forward of `n_position` positions from p_begin on.
void rows_attend(const RowsTask& t, int64_t p_begin, int64_t n_position, float* scratch) {
    const QueryBlock q = {t, p_begin, n_position};
    const int64_t rows = q.rows(), width_k = padded(t.dim_k), width_v = padded(t.dim_v);
    float *queries = scratch, *out = queries + rows * width_k, *s = out + rows * width_v;
    float *top = s + rows * kKeyBlock, *total = top + rows;
    gather(q, t.q, t.dim_k, t.scale * kLog2E, queries);
    for (int64_t row = 0; row < rows; ++row) top[row] = kHidden, total[row] = 0.0f;
    for (int64_t i = 0; i < rows * width_v; i += kLanes) store(out + i, splat(0.0f));
    for (int64_t block = q.first(p_begin) / kKeyBlock; block * kKeyBlock < p_begin + n_position; ++block) {
        const KeyBlock k = key_block(q, block);
        block_product(rows, k.n, t.dim_k, {queries, width_k, 1}, t.k_panels + k.begin * t.dim_k, t.dim_k * kLanes,
                      false, s, kKeyBlock);
        for (int64_t row = 0; row < rows; ++row) {
            int64_t from, to;
            seen_of(q, k, row, from, to);
            float* weights = s + row * kKeyBlock;
            if (from < to)
                soften_row(weights, from, to, k.n, width_v, top[row], total[row], out + row * width_v);
            else
                for (int64_t i = 0; i < k.n; i += kLanes) store(weights + i, splat(0.0f));
        }
        block_product(rows, t.dim_v, k.n, {s, kKeyBlock, 1}, t.v_panels + k.begin * width_v, kKeyBlock * kLanes, true,
                      out, width_v);
    }
    for (int64_t row = 0; row < rows; ++row) {
        scale(out + row * width_v, 1.0f / total[row], t.dim_v, t.out + q.at(row, t.dim_v));
        if (t.log_sum_exp)
            t.log_sum_exp[q.at(row, 1)] =
                float((double(top[row]) + __builtin_log2(double(total[row]))) / 1.4426950408889634);
    }
}

// What backward works with: blocks of queries as rows and as panels, their weights and gradients of scores; and, for
// the whole sequence, keys and values both ways, and the sums of their gradients.
struct BackMemory {
    float *q, *dout, *q_panels, *dout_panels, *dq, *s, *ds, *lse, *inner;
    float *k_across, *v_across, *k_by_row, *dk, *dv;
};

LK_INLINE int64_t lay_out(const RowsTask& t, float* from, BackMemory& m) {
    float* at = from;
    const int64_t rows = kQueryRows > t.group ? kQueryRows : t.group, n = (t.n + kKeyBlock - 1) / kKeyBlock * kKeyBlock;
    const int64_t width_k = padded(t.dim_k), width_v = padded(t.dim_v);
    const auto next = [&](int64_t count) LK_LAMBDA {
        float* here = at;
        at += padded(count);
        return here;
    };
    m.q = next(rows * width_k), m.dout = next(rows * width_v), m.q_panels = next(rows * width_k);
    m.dout_panels = next(rows * width_v), m.dq = next(rows * width_k);
    m.s = next(rows * kKeyBlock), m.ds = next(rows * kKeyBlock), m.lse = next(rows), m.inner = next(rows);
    m.k_across = next(n * t.dim_k), m.v_across = next(n * t.dim_v), m.k_by_row = next(n * width_k);
    m.dk = next(n * width_k), m.dv = next(n * width_v);
    return at - from;
}

int64_t rows_back_scratch(const RowsTask& t) {
    BackMemory m;
    return lay_out(t, nullptr, m);
}

// Scores of a row to weights, and gradients of its weights to gradients of its scores, zeros for keys not seen.
LK_INLINE void score_gradients(const RowsTask& t, float* s, float* ds, int64_t from, int64_t to, int64_t n, float lse,
                               float inner) {
    for (int64_t i = 0; i < n; i += kLanes) {
        Floats w = splat(0.0f);
        if (i < to && i + kLanes > from) {
            const Floats exponent = fma(load(s + i), splat(t.scale * kLog2E), splat(-lse * kLog2E));
            w = exp2_below<false>(min(exponent, splat(0.0f)));
        }
        store(s + i, w);
    }
    for (int64_t i = 0; i < from && i < n; ++i) s[i] = 0.0f;
    for (int64_t i = to > 0 ? to : 0; i < padded(n); ++i) s[i] = 0.0f;
    for (int64_t i = 0; i < n; i += kLanes) store(ds + i, load(s + i) * (load(ds + i) - splat(inner)) * splat(t.scale));
}

LK_INLINE void back_block(const QueryBlock& q, const KeyBlock& k, const BackMemory& m) {
    const RowsTask& t = q.t;
    const int64_t rows = q.rows(), width_k = padded(t.dim_k), width_v = padded(t.dim_v);
    block_product(rows, k.n, t.dim_k, {m.q, width_k, 1}, m.k_across + k.begin * t.dim_k, t.dim_k * kLanes, false, m.s,
                  kKeyBlock);
    block_product(rows, k.n, t.dim_v, {m.dout, width_v, 1}, m.v_across + k.begin * t.dim_v, t.dim_v * kLanes, false,
                  m.ds, kKeyBlock);
    for (int64_t row = 0; row < rows; ++row) {
        int64_t from, to;
        seen_of(q, k, row, from, to);
        score_gradients(t, m.s + row * kKeyBlock, m.ds + row * kKeyBlock, from, to, k.n, m.lse[row], m.inner[row]);
    }
    block_product(k.n, t.dim_v, rows, {m.s, 1, kKeyBlock}, m.dout_panels, rows * kLanes, true, m.dv + k.begin * width_v,
                  width_v);
    block_product(k.n, t.dim_k, rows, {m.ds, 1, kKeyBlock}, m.q_panels, rows * kLanes, true, m.dk + k.begin * width_k,
                  width_k);
    block_product(rows, t.dim_k, k.n, {m.ds, kKeyBlock, 1}, m.k_by_row + k.begin * width_k, kKeyBlock * kLanes, true,
                  m.dq, width_k);
}

// Queries [p_begin, p_begin + n_position): their gradients, and what they add to those of the keys and values.
LK_INLINE void back_queries(const RowsTask& t, int64_t p_begin, int64_t n_position, const BackMemory& m) {
    const QueryBlock q = {t, p_begin, n_position};
    const int64_t rows = q.rows(), width_k = padded(t.dim_k), width_v = padded(t.dim_v);
    gather(q, t.q, t.dim_k, 1.0f, m.q);
    gather(q, t.dout, t.dim_v, 1.0f, m.dout);
    panels_by_row([&](int64_t i) LK_LAMBDA { return m.q + i * width_k; }, rows, rows, t.dim_k, m.q_panels);
    panels_by_row([&](int64_t i) LK_LAMBDA { return m.dout + i * width_v; }, rows, rows, t.dim_v, m.dout_panels);
    for (int64_t row = 0; row < rows; ++row) {
        m.lse[row] = t.log_sum_exp[q.at(row, 1)];
        m.inner[row] = dot(m.dout + row * width_v, t.out + q.at(row, t.dim_v), t.dim_v);
    }
    for (int64_t i = 0; i < rows * width_k; i += kLanes) store(m.dq + i, splat(0.0f));
    for (int64_t block = q.first(p_begin) / kKeyBlock; block * kKeyBlock < p_begin + n_position; ++block)
        back_block(q, key_block(q, block), m);
    for (int64_t row = 0; row < rows; ++row) scale(m.dq + row * width_k, 1.0f, t.dim_k, t.dq + q.at(row, t.dim_k));
}

// Gradients of a sequence's queries, keys and values by one KV head.
void rows_attend_back(const RowsTask& t, float* scratch) {
    BackMemory m;
    lay_out(t, scratch, m);
    const int64_t width_k = padded(t.dim_k), width_v = padded(t.dim_v);
    const auto of_key = [&](int64_t i) LK_LAMBDA { return (int64_t(t.rows[i]) * t.n_head_kv + t.head_kv); };
    for (int64_t at = 0; at < t.n; at += kKeyBlock) {
        const int64_t n = t.n - at < kKeyBlock ? t.n - at : kKeyBlock;
        const auto key = [&](int64_t i) LK_LAMBDA { return t.k + of_key(at + i) * t.dim_k; };
        const auto value = [&](int64_t i) LK_LAMBDA { return t.v + of_key(at + i) * t.dim_v; };
        panels_across(key, n, t.dim_k, m.k_across + at * t.dim_k);
        panels_across(value, n, t.dim_v, m.v_across + at * t.dim_v);
        panels_by_row(key, n, kKeyBlock, t.dim_k, m.k_by_row + at * width_k);
    }
    for (int64_t i = 0; i < t.n * width_k; i += kLanes) store(m.dk + i, splat(0.0f));
    for (int64_t i = 0; i < t.n * width_v; i += kLanes) store(m.dv + i, splat(0.0f));
    const int64_t step = kQueryRows > t.group ? kQueryRows / t.group : 1;
    for (int64_t p = 0; p < t.n; p += step) back_queries(t, p, t.n - p < step ? t.n - p : step, m);
    for (int64_t i = 0; i < t.n; ++i) {
        scale(m.dk + i * width_k, 1.0f, t.dim_k, t.dk + of_key(i) * t.dim_k);
        scale(m.dv + i * width_v, 1.0f, t.dim_v, t.dv + of_key(i) * t.dim_v);
    }
}
