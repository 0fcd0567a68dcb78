#include "sampling/candidates.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "sampling/order.h"
#include "sampling/work.h"

// Compiled for AVX2 too, chosen when the module is loaded: the scan of a row is all that a short chain costs.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define LK_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define LK_CLONES
#endif

namespace lk::sampling {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr int32_t kBlock = 128;  // logits whose maximum is taken at once

// The maximum of a block; sets *nan if one of them is NaN. Without branches, so that it becomes vector code.
LK_CLONES float block_max(const float* x, int32_t n, int* nan) {
    float lanes[16];
    for (int i = 0; i < 16; ++i) lanes[i] = kNever;
    int bad = 0, i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; ++j) {
            lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
            bad |= x[i + j] != x[i + j];
        }
    float best = kNever;
    for (; i < n; ++i) {
        best = x[i] > best ? x[i] : best;
        bad |= x[i] != x[i];
    }
    for (float lane : lanes) best = lane > best ? lane : best;
    *nan |= bad;
    return best;
}

void refuse_empty(float best) {
    if (best == kNever) throw SamplingError("no token is left to choose from: every candidate is masked or banned");
    if (best > std::numeric_limits<float>::max())
        throw LogitsError("the logits contain infinity: the model's output is not usable");
}

// The k likeliest of a whole row, sorted. First the maximum of every block: k blocks have at least the k-th largest of
// these, so no candidate below it can be among the k likeliest, and most blocks need no second look. Of more than there
// are blocks, the highest bits of all logits tell what cannot be among them.
std::vector<Candidate> top_of_row(const float* x, int32_t n, size_t k) {
    std::vector<float> peaks;
    peaks.reserve(size_t(n / kBlock) + 1);
    int nan = 0;
    for (int32_t start = 0; start < n; start += kBlock)
        peaks.push_back(block_max(x + start, std::min(n - start, kBlock), &nan));
    if (nan) refuse_nan();
    float bar;
    if (k <= peaks.size()) {
        std::vector<float> order = peaks;
        std::nth_element(order.begin(), order.begin() + ptrdiff_t(k - 1), order.end(), std::greater<>());
        bar = order[k - 1];
    } else {
        count(size_t(n), kScan);
        bar = reached_by(x, n, std::min(k, size_t(n)));
    }
    std::vector<Candidate> pool;
    for (size_t block = 0; block < peaks.size(); ++block) {
        if (peaks[block] < bar) continue;
        const int32_t start = int32_t(block) * kBlock;
        for (int32_t i = start; i < std::min(n, start + kBlock); ++i)
            if (x[i] >= bar) pool.push_back({i, x[i]});
    }
    keep_likeliest(pool, k);
    return pool;
}

}  // namespace

void refuse_nan() {
    throw LogitsError("the logits contain NaN: the model's output is not usable");
}

float* Candidates::writable() {
    if (elsewhere()) throw RowNeeded();
    if (copy_.empty()) copy_.assign(logits_, logits_ + n_vocab_);
    return copy_.data();
}

float* Candidates::find(int32_t id) {
    if (id < 0 || id >= n_vocab_) return nullptr;
    if (whole_) return writable() + id;
    sorted_ = false;
    if (places_.empty()) {
        searched_ += list_.size();
        if (searched_ <= size_t(n_vocab_)) {
            const auto found =
                std::find_if(list_.begin(), list_.end(), [id](const Candidate& c) { return c.id == id; });
            return found == list_.end() ? nullptr : &found->logit;
        }
        note_places();
    }
    const int32_t place = places_[size_t(id)];
    return place < 0 ? nullptr : &list_[size_t(place)].logit;
}

void Candidates::note_places() {
    count(size_t(n_vocab_), kScan);
    places_.assign(size_t(n_vocab_), -1);
    for (size_t i = list_.size(); i-- > 0;)
        if (list_[i].id >= 0 && list_[i].id < n_vocab_) places_[size_t(list_[i].id)] = int32_t(i);
}

void Candidates::forget_places() {
    places_.clear();
    searched_ = 0;
}

void Candidates::add(int32_t id, float value) {
    update(id, [value](float logit) { return logit + value; });
}

void Candidates::edit(const Edits& edits) {
    for (size_t i = 0; i < edits.ids.size(); ++i)
        update(edits.ids[i],
               [&](float x) { return (x <= 0 ? x * edits.repeats[i] : x / edits.repeats[i]) + edits.values[i]; });
    if (edits.scale != 1) scale(edits.scale);
    if (!edits.mask.empty()) mask(edits.mask.data());
}

void Candidates::scale(float factor) {
    if (elsewhere()) {
        if (!(factor > 0)) throw RowNeeded();
        for (Candidate& c : list_) c.logit *= factor;
        // Rounding may have made equal what was not: those that are not known may be as likely as the last ones now,
        // and of lower ids.
        const float bar = list_.back().logit;
        while (!complete() && !list_.empty() && list_.back().logit <= bar) list_.pop_back();
        if (list_.empty()) throw RowNeeded();
        sort_likeliest(list_);
        summed_ = false;
    } else if (whole_) {
        float* x = writable();
        for (int32_t i = 0; i < n_vocab_; ++i) x[i] *= factor;
    } else {
        for (Candidate& c : list_) c.logit *= factor;
        sorted_ = sorted_ && factor > 0;
    }
}

void Candidates::mask(const uint32_t* bits) {
    const auto allowed = [bits](int32_t id) { return (bits[id / 32] >> (id % 32)) & 1; };
    if (whole_) {
        float* x = writable();
        for (int32_t i = 0; i < n_vocab_; ++i) x[i] = allowed(i) ? x[i] : kNever;
    } else {
        forget_places();
        std::erase_if(list_, [&](const Candidate& c) { return !allowed(c.id); });
    }
}

void Candidates::keep_top(size_t k) {
    if (k == 0 || k >= size()) return;
    forget_places();
    if (elsewhere()) {
        if (k > list_.size()) throw RowNeeded();
        list_.resize(k);
        whole_ = false;
    } else if (whole_) {
        list_ = top_of_row(row(), n_vocab_, k);
        whole_ = false;
    } else {
        if (sorted_)
            list_.resize(k);
        else
            keep_likeliest(list_, k);
    }
    sorted_ = true;
}

void Candidates::replace(std::vector<Candidate> list, bool sorted) {
    forget_places();
    list_ = std::move(list);
    whole_ = false;
    sorted_ = sorted;
}

std::vector<Candidate>& Candidates::list(bool sorted) {
    forget_places();
    if (elsewhere()) {
        if (!complete()) throw RowNeeded();
        std::erase_if(list_, [](const Candidate& c) { return c.logit == kNever; });
        const auto by_id = [](const Candidate& a, const Candidate& b) { return a.id < b.id; };
        if (!sorted) std::sort(list_.begin(), list_.end(), by_id);
        whole_ = false;
        sorted_ = sorted;
    } else if (whole_) {
        const float* x = row();
        int nan = 0;
        block_max(x, n_vocab_, &nan);
        if (nan) refuse_nan();
        begin_or_postpone(size_t(n_vocab_), kScan);
        list_.clear();
        list_.reserve(size_t(n_vocab_));
        for (int32_t i = 0; i < n_vocab_; ++i)
            if (x[i] != kNever) list_.push_back({i, x[i]});
        whole_ = false;
        sorted_ = false;
    }
    if (sorted && !sorted_) {
        sort_likeliest(list_);
        sorted_ = true;
    }
    return list_;
}

std::vector<Candidate> Candidates::top(size_t k) const {
    k = std::min(k, size());
    if (k == 0) return {};
    if (elsewhere()) {
        if (k > list_.size()) throw RowNeeded();
        return {list_.begin(), list_.begin() + ptrdiff_t(k)};
    }
    if (whole_) return top_of_row(row(), n_vocab_, k);
    std::vector<Candidate> copy = list_;  // scaling may have made ties of what was sorted
    keep_likeliest(copy, k);
    return copy;
}

Candidate Candidates::best() const {
    Candidate best{-1, kNever};
    if (elsewhere()) {
        best = list_.front();
    } else if (whole_) {
        best = top_of_row(row(), n_vocab_, 1).front();
    } else {
        for (const Candidate& c : list_) {
            if (c.logit != c.logit) refuse_nan();
            if (best.id < 0 || likelier(c, best)) best = c;
        }
    }
    refuse_empty(best.logit);
    return best;
}

double Candidates::log_sum_exp() const {
    if (elsewhere()) {
        if (!summed_) throw RowNeeded();
        return log_sum_;
    }
    const float peak = best().logit;
    return double(peak) + std::log(sum_exp(peak, INFINITY));
}

double Candidates::sum_exp(float peak, double enough) const {
    if (elsewhere()) throw RowNeeded();
    const auto sum_of = [&](size_t n, const auto& logit_of) {
        double sum = 0;
        size_t i = 0;
        while (i < n && sum <= enough)
            for (const size_t end = std::min(n, i + kBlock); i < end; ++i) sum += std::exp(logit_of(i) - peak);
        count(i, kSum);
        return sum;
    };
    if (!whole_) return sum_of(list_.size(), [&](size_t i) { return list_[i].logit; });
    return sum_of(size_t(n_vocab_), [x = row()](size_t i) { return x[i]; });
}

std::vector<Candidate> Candidates::at_least(float logit) const {
    std::vector<Candidate> found;
    count(size(), kScan);
    if (whole_ && !elsewhere()) {
        const float* x = row();
        for (int32_t i = 0; i < n_vocab_; ++i)
            if (x[i] >= logit) found.push_back({i, x[i]});
        return found;
    }
    if (elsewhere() && !complete() && list_.back().logit >= logit) throw RowNeeded();
    for (const Candidate& each : list_)
        if (each.logit >= logit) found.push_back(each);
    if (whole_) std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
    return found;
}

std::vector<float> softmax(const std::vector<Candidate>& list) {
    begin_or_postpone(list.size(), kSoftmax);
    float best = kNever;
    for (const Candidate& c : list) {
        if (c.logit != c.logit) refuse_nan();
        best = std::max(best, c.logit);
    }
    refuse_empty(best);
    std::vector<float> p(list.size());
    double sum = 0;
    for (size_t i = 0; i < list.size(); ++i) sum += p[i] = std::exp(list[i].logit - best);
    for (float& x : p) x = float(x / sum);
    return p;
}

}  // namespace lk::sampling
