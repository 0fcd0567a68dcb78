// The ops of training on values and states. Every sum has one order, so a run repeats to the bit.
FN float sigmoid(float x) { return 1.0f / (1.0f + EXP(-x)); }

// The value of an activation and its slope.
FN float activated(float x, int kind, float *slope) {
    if (kind == 0) {
        float s = sigmoid(x);
        *slope = s * (1.0f + x * (1.0f - s));
        return x * s;
    }
    if (kind == 1) {
        float t = TANH(0.7978845608028654f * (x + 0.044715f * x * x * x));
        *slope = 0.5f * (1.0f + t) +
                 0.5f * x * (1.0f - t * t) * 0.7978845608028654f * (1.0f + 3.0f * 0.044715f * x * x);
        return 0.5f * x * (1.0f + t);
    }
    if (kind == 2) {
        float integral = 0.5f * (1.0f + ERF(x * 0.70710678118654752f));
        *slope = integral + x * 0.3989422804014327f * EXP(-0.5f * x * x);
        return x * integral;
    }
    float positive = x > 0.0f ? x : 0.0f;
    *slope = kind == 3 ? (x > 0.0f ? 1.0f : 0.0f) : 2.0f * positive;
    return kind == 3 ? positive : positive * positive;
}

// The slope of an activation at x; kinds as in `activation`.
KERNEL void activation_slope(BUF(const float, x), BUF(float, y), const int n, const int kind) {
    USE(const float, x);
    USE(float, y);
    if (INDEX >= n) return;
    float slope;
    activated(x[INDEX], kind, &slope);
    y[INDEX] = slope;
}

KERNEL void gated_back(BUF(const float, gate), BUF(const float, up), BUF(const float, dy), BUF(float, d_gate),
                       BUF(float, d_up), const int n, const int kind) {
    USE(const float, gate);
    USE(const float, up);
    USE(const float, dy);
    USE(float, d_gate);
    USE(float, d_up);
    if (INDEX >= n) return;
    float slope, value = activated(gate[INDEX], kind, &slope), d = dy[INDEX];
    d_gate[INDEX] = d * up[INDEX] * slope;
    d_up[INDEX] = d * value;
}

// -log softmax(logits)[target] of each row, 0 where the target is -1 or the weight 0. With `gradients` the logits become
// weight * (softmax - onehot). A row for each unit; no `weights` (has_weights 0) count as 1.
KERNEL void cross_entropy(BUF(const float, logits), BUF(const int, targets), BUF(const float, weights),
                          BUF(float, losses), BUF(float, d), const int n_row, const int n_vocab, const int has_weights,
                          const int has_losses, const int gradients) {
    USE(const float, logits);
    USE(const int, targets);
    USE(const float, weights);
    USE(float, losses);
    USE(float, d);
    PART;
    UNITS(n_row);
    int r = UNIT, target = targets[r];
    logits += (i64)r * n_vocab;
    d += (i64)r * n_vocab;
    float weight = has_weights ? weights[r] : 1.0f, top = MINUS_INFINITY, sum = 0.0f, lost = 0.0f;
    if (target < 0) weight = 0.0f;
    for (int i = LANE; i < n_vocab; i += LANES) top = logits[i] > top ? logits[i] : top;
    top = lane_max(top, part);
    for (int i = LANE; i < n_vocab; i += LANES) {
        float term = EXP(logits[i] - top) - lost, next = sum + term;
        lost = (next - sum) - term;
        sum = next;
    }
    float log_sum = top + LOG(lane_sum(sum, part)), chosen = target < 0 ? 0.0f : logits[target];
    if (has_losses && LANE == 0) losses[r] = weight != 0.0f ? log_sum - chosen : 0.0f;
    MEET_FOR_ALL;  // all have read the target's logit, which `d` may lie on
    if (!gradients) return;
    for (int i = LANE; i < n_vocab; i += LANES) {
        float p = EXP(logits[i] - log_sum);
        d[i] = weight != 0.0f ? weight * (i == target ? p - 1.0f : p) : 0.0f;
    }
}

// dx of a norm; `factors` and `means` of each row are for the weight's gradient. layer: with the mean taken away.
KERNEL void norm_back(BUF(const float, x), BUF(const float, dy), BUF(const float, weight), BUF(float, dx),
                      BUF(float, factors), BUF(float, means), const int n_row, const int width, const int layer,
                      const float epsilon) {
    USE(const float, x);
    USE(const float, dy);
    USE(const float, weight);
    USE(float, dx);
    USE(float, factors);
    USE(float, means);
    PART;
    UNITS(n_row);
    i64 at = (i64)UNIT * width;
    x += at;
    dy += at;
    dx += at;
    float mean = 0.0f, squares = 0.0f, inner = 0.0f, all = 0.0f;
    if (layer) {
        for (int i = LANE; i < width; i += LANES) mean += x[i];
        mean = lane_sum(mean, part) / (float)width;
    }
    for (int i = LANE; i < width; i += LANES) squares = FMA(x[i] - mean, x[i] - mean, squares);
    float factor = 1.0f / SQRT(lane_sum(squares, part) / (float)width + epsilon);
    for (int i = LANE; i < width; i += LANES) {
        float g = dy[i] * weight[i];
        inner = FMA(g, (x[i] - mean) * factor, inner);
        all += g;
    }
    inner = lane_sum(inner, part) / (float)width;
    all = layer ? lane_sum(all, part) / (float)width : 0.0f;
    for (int i = LANE; i < width; i += LANES)
        dx[i] = (dy[i] * weight[i] - all - (x[i] - mean) * factor * inner) * factor;
    if (LANE == 0) {
        factors[UNIT] = factor;
        means[UNIT] = mean;
    }
}

// grad[i] += sum over rows of dy[r, i] (x[r, i] - mean[r]) factor[r]
KERNEL void norm_weight_back(BUF(const float, x), BUF(const float, dy), BUF(const float, factors),
                             BUF(const float, means), BUF(float, grad), const int n_row, const int width) {
    USE(const float, x);
    USE(const float, dy);
    USE(const float, factors);
    USE(const float, means);
    USE(float, grad);
    if (INDEX >= width) return;
    float sum = 0.0f;
    for (int r = 0; r < n_row; ++r) {
        i64 at = (i64)r * width + INDEX;
        sum = FMA(dy[at], (x[at] - means[r]) * factors[r], sum);
    }
    grad[INDEX] += sum;
}

KERNEL void sum_rows(BUF(const float, x), BUF(float, into), const int n_row, const int width) {
    USE(const float, x);
    USE(float, into);
    if (INDEX >= width) return;
    float sum = 0.0f;
    for (int r = 0; r < n_row; ++r) sum += x[(i64)r * width + INDEX];
    into[INDEX] += sum;
}

// into[indices[r]] += dy[r]. The first row of an index adds up all that have it, in order.
KERNEL void scatter_rows(BUF(const float, dy), BUF(const int, indices), BUF(float, into), const int n_row,
                         const int width) {
    USE(const float, dy);
    USE(const int, indices);
    USE(float, into);
    if (INDEX >= (i64)n_row * width) return;
    int r = (int)(INDEX / width), i = (int)(INDEX % width), index = indices[r];
    for (int other = 0; other < r; ++other)
        if (indices[other] == index) return;
    float sum = 0.0f;
    for (int other = r; other < n_row; ++other)
        if (indices[other] == index) sum += dy[(i64)other * width + i];
    into[(i64)index * width + i] += sum;
}

KERNEL void add_state(BUF(const float, x), BUF(float, state), const int n) {
    USE(const float, x);
    USE(float, state);
    if (INDEX < n) state[INDEX] += x[INDEX];
}

// Of the pairs of a row and an expert: the gradients of the shares, and those of a share times gate and up.
KERNEL void pairs_back(BUF(const float, gate), BUF(const float, up), BUF(const float, d_hidden), BUF(const float, shares),
                       BUF(float, d_share), BUF(float, d_gate), BUF(float, d_up), const int n_pair, const int width,
                       const int kind) {
    USE(const float, gate);
    USE(const float, up);
    USE(const float, d_hidden);
    USE(const float, shares);
    USE(float, d_share);
    USE(float, d_gate);
    USE(float, d_up);
    if (INDEX >= n_pair) return;
    float sum = 0.0f, share = shares[INDEX];
    for (int i = 0; i < width; ++i) {
        i64 at = INDEX * width + i;
        float slope, value = activated(gate[at], kind, &slope), d = d_hidden[at];
        sum = FMA(d, value * up[at], sum);
        d_gate[at] = share * d * up[at] * slope;
        d_up[at] = share * d * value;
    }
    d_share[INDEX] = sum;
}

// The gradient of scores from that of the shares; all experts have a share where shares are not normalised.
KERNEL void choose_back(BUF(const float, scores), BUF(const int, chosen), BUF(const float, shares),
                        BUF(const float, d_share), BUF(float, d_scores), const int n_row, const int n_expert,
                        const int n_used, const int normalise) {
    USE(const float, scores);
    USE(const int, chosen);
    USE(const float, shares);
    USE(const float, d_share);
    USE(float, d_scores);
    if (INDEX >= n_row) return;
    scores += INDEX * n_expert;
    d_scores += INDEX * n_expert;
    chosen += INDEX * n_used;
    shares += INDEX * n_used;
    d_share += INDEX * n_used;
    float inner = 0.0f, top = scores[chosen[0]], all = 0.0f;
    for (int u = 0; u < n_used; ++u) inner = FMA(shares[u], d_share[u], inner);
    for (int e = 0; e < n_expert; ++e) all += EXP(scores[e] - top);
    for (int e = 0; e < n_expert; ++e) d_scores[e] = normalise ? 0.0f : -EXP(scores[e] - top) / all * inner;
    for (int u = 0; u < n_used; ++u) {
        float own = normalise ? -shares[u] * inner : d_scores[chosen[u]];
        d_scores[chosen[u]] = own + shares[u] * d_share[u];
    }
}

// Rows of pairs added up by row.
KERNEL void sum_pairs(BUF(const float, made), BUF(float, y), const int n_row, const int n_used, const int width) {
    USE(const float, made);
    USE(float, y);
    if (INDEX >= (i64)n_row * width) return;
    float sum = 0.0f;
    for (int u = 0; u < n_used; ++u) sum += made[(INDEX / width * n_used + u) * width + INDEX % width];
    y[INDEX] = sum;
}
