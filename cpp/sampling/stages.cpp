// Definitions: as in the samplers of llama.cpp (names and formulas of the field), except that ties go to the lower id.
#include "sampling/stages.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "sampling/random.h"
#include "sampling/work.h"

namespace lk::sampling {
namespace {

// Index of the first candidate whose running sum of probabilities reaches u.
size_t draw(const std::vector<float>& p, double u) {
    double sum = 0, total = 0;
    for (float x : p) total += x;
    size_t last = 0;
    for (size_t i = 0; i < p.size(); ++i) {
        if (p[i] <= 0) continue;
        last = i;
        sum += p[i];
        if (sum >= u * total && sum > 0) return i;
    }
    return last;
}

// Goes through distances from a point between sorted values, the nearest first, ties by rising index. They fall towards
// the point and rise behind it, so there is nothing to sort; where rounding has made them otherwise they are sorted.
class Nearest {
  public:
    explicit Nearest(const std::vector<double>& distance) : distance_(distance) {
        const auto least = std::min_element(distance.begin(), distance.end());
        left_ = right_ = size_t(least - distance.begin());
        if (std::is_sorted(distance.begin(), least, std::greater<>()) && std::is_sorted(least, distance.end())) return;
        order_.resize(distance.size());
        std::iota(order_.begin(), order_.end(), size_t(0));
        std::sort(order_.begin(), order_.end(), [&](size_t a, size_t b) {
            return distance[a] < distance[b] || (distance[a] == distance[b] && a < b);
        });
    }

    bool done() const { return n_ == distance_.size(); }
    size_t next() {
        if (!order_.empty()) return order_[n_++];
        ++n_;
        if (tie_ < tie_end_) return tie_++;
        if (left_ == 0 || (right_ < distance_.size() && distance_[right_] < distance_[left_ - 1])) return right_++;
        tie_end_ = left_--;
        while (left_ > 0 && distance_[left_ - 1] == distance_[left_]) --left_;
        tie_ = left_;
        return tie_++;
    }

  private:
    const std::vector<double>& distance_;
    std::vector<size_t> order_;            // where they are sorted
    size_t n_ = 0, left_ = 0, right_ = 0;  // given so far; those from `left_` to `right_` are among them, or ties
    size_t tie_ = 0, tie_end_ = 0;         // as near, on the left: still to be given
};

}  // namespace

void LogitBias::apply(Candidates& c) {
    for (const auto& [id, value] : bias_) c.add(id, value);
}

bool LogitBias::edit(Edits& edits) {
    // What is masked stays so whatever is added, but for infinity.
    const auto infinite = [](const auto& each) { return !(each.second < INFINITY); };
    if (edits.scale != 1 || std::any_of(bias_.begin(), bias_.end(), infinite)) return false;
    for (const auto& [id, value] : bias_) edits.add(id, 1, value);
    return true;
}

// Repetition: Keskar et al. 2019 (arXiv:1909.05858), with the sign rule of the field. Frequency and presence: OpenAI's
// API.
void Penalties::apply(Candidates& c) {
    for (const auto& [id, count] : counts_) {
        if (id == spared_) continue;
        c.update(id, [this, count = count](float logit) {
            logit = logit <= 0 ? logit * repeat_ : logit / repeat_;
            return logit - (float(count) * frequency_ + presence_);
        });
    }
}

bool Penalties::edit(Edits& edits) {
    if (edits.scale != 1) return false;
    for (const auto& [id, count] : counts_)
        if (id != spared_) edits.add(id, repeat_, -(float(count) * frequency_ + presence_));
    return true;
}

// Counted as they come: windows may be as long as contexts are.
void Penalties::accept(int32_t id) {
    history_.push_back(id);
    ++counts_[id];
    if (window_ < 0 || history_.size() <= size_t(window_)) return;
    const auto oldest = counts_.find(history_[history_.size() - 1 - size_t(window_)]);
    if (--oldest->second == 0) counts_.erase(oldest);
}

void TopK::apply(Candidates& c) {
    if (k_ > 0) c.keep_top(size_t(std::max(k_, min_keep_)));
}

// The log-sum-exp. Where work waits it is known as soon as the likeliest few will not do, mostly after a small part of
// the row.
double TopP::log_total(const Candidates& c) const {
    if (!would_postpone(c.size())) return c.log_sum_exp();
    if (!c.whole()) throw Postponed();  // a list is sorted
    const std::vector<Candidate> few = c.top(kMostlyEnough);
    const float peak = c.best().logit;
    double sum = 0;
    for (const Candidate& each : few) sum += std::exp(each.logit - peak);
    const double enough = sum / double(p_) * (1 + 1e-6), total = c.sum_exp(peak, enough);
    if (total > enough) throw Postponed();
    return double(peak) + std::log(total);
}

// Nucleus: Holtzman et al. 2019, arXiv:1904.09751. The smallest set of the likeliest whose sum reaches p.
void TopP::apply(Candidates& c) {
    if (p_ >= 1) return;
    const double log_total = this->log_total(c);
    double sum = 0;
    size_t n = 0;
    // Goes on where a shorter list ended, which is the beginning of this one.
    const auto reaches = [&](const std::vector<Candidate>& list) {
        const size_t from = n = std::min(n, list.size());
        while (n < list.size() && (n < std::max<size_t>(min_keep_, 1) || sum < p_))
            sum += std::exp(list[n++].logit - log_total);
        count(n - from, kSoftmax);
        return n < list.size() || (n >= min_keep_ && sum >= p_);
    };
    // The likeliest few are usually enough: sorting a whole vocabulary is not needed.
    for (size_t part = c.whole() ? kMostlyEnough : c.size(); part < c.size(); part *= 32) {
        std::vector<Candidate> list = c.top(part);
        if (!reaches(list)) continue;
        list.resize(n);
        c.replace(std::move(list), true);
        return;
    }
    std::vector<Candidate>& list = c.list(true);
    reaches(list);
    list.resize(n);
}

// Nguyen et al. 2024, arXiv:2407.01082: keep what has at least p times the probability of the likeliest.
void MinP::apply(Candidates& c) {
    if (p_ <= 0) return;
    const Candidate best = c.best();
    const float least = best.logit + std::log(p_);
    std::vector<Candidate> kept = c.at_least(least);
    if (kept.empty()) kept.push_back(best);  // p above 1
    if (kept.size() < min_keep_) {
        c.keep_top(min_keep_);
        return;
    }
    c.replace(std::move(kept), false);
}

// Tail free sampling (Phenix 2019): cut where the curvature of the sorted probabilities has been spent.
void TfsZ::apply(Candidates& c) {
    if (p_ >= 1 || c.size() <= 2) return;
    std::vector<Candidate>& list = c.list(true);
    if (list.size() <= 2) return;
    const std::vector<float> p = softmax(list);
    const size_t n = list.size() - 2;
    std::vector<float> curvature(n);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
        curvature[i] = std::fabs((p[i] - p[i + 1]) - (p[i + 1] - p[i + 2]));
        sum += curvature[i];
    }
    double spent = 0;
    size_t last = list.size();
    for (size_t i = 0; i < n; ++i) {
        spent += sum > 1e-6 ? curvature[i] / sum : 1.0 / double(n);
        if (spent > p_ && i >= min_keep_) {
            last = i;
            break;
        }
    }
    list.resize(last);
}

// Locally typical: Meister et al. 2022, arXiv:2202.00666. Keep the tokens whose surprise is nearest to the entropy.
void TypicalP::apply(Candidates& c) {
    if (p_ >= 1) return;
    const std::vector<Candidate>& list = c.list(true);
    const std::vector<float> p = softmax(list);
    count(list.size(), kLog);
    double entropy = 0;
    std::vector<double> distance(list.size());
    for (size_t i = 0; i < list.size(); ++i) {
        const double log = p[i] > 0 ? std::log(double(p[i])) : -INFINITY;
        if (p[i] > 0) entropy -= double(p[i]) * log;
        distance[i] = -log;
    }
    for (double& each : distance) each = std::isinf(each) ? each : std::fabs(each - entropy);
    double sum = 0;
    std::vector<Candidate> kept;
    Nearest nearest(distance);
    while (!nearest.done()) {
        const size_t i = nearest.next();
        kept.push_back(list[i]);
        sum += p[i];
        if (sum > p_ && kept.size() >= std::max<size_t>(min_keep_, 1)) break;
    }
    c.replace(std::move(kept), false);
}

void Temperature::apply(Candidates& c) {
    if (temperature_ > 0) {
        if (temperature_ != 1) c.scale(1.0f / temperature_);
        return;
    }
    c.replace({c.best()}, true);
}

bool Temperature::edit(Edits& edits) {
    if (!(temperature_ > 0) || edits.scale != 1) return false;
    edits.scale = 1.0f / temperature_;
    return true;
}

void Dist::apply(Candidates& c) {
    std::vector<Candidate>& list = c.list(false);
    c.choose(list.at(draw(softmax(list), uniform(seed_, choice_ + c.draw_offset(), position_))).id);
}

// Basu et al. 2020, arXiv:2007.14966, algorithm 1: estimate Zipf's exponent from the likeliest 100, and from it the k
// whose tokens have the surprise that mu asks for.
void Mirostat::cut_version_1(std::vector<Candidate>& list, int32_t n_vocab) const {
    const std::vector<float> p = softmax(list);
    double sum_tb = 0, sum_tt = 0;
    for (size_t i = 0; i + 1 < std::min<size_t>(100, p.size()); ++i) {
        if (p[i + 1] <= 0) break;
        const double t = std::log(double(i + 2) / double(i + 1)), b = std::log(double(p[i]) / double(p[i + 1]));
        sum_tb += t * b;
        sum_tt += t * t;
    }
    const double s = sum_tt > 0 ? sum_tb / sum_tt : 1, eps = s - 1;
    const double k = std::pow(eps * std::pow(2.0, mu_) / (1 - std::pow(double(n_vocab), -eps)), 1 / s);
    const double most = double(list.size());
    list.resize(std::isfinite(k) ? size_t(std::clamp(k, 1.0, most)) : list.size());
}

// Version 2: drop what is more surprising than mu.
void Mirostat::cut_version_2(std::vector<Candidate>& list) const {
    const std::vector<float> p = softmax(list);
    size_t n = 1;
    while (n < list.size() && p[n] > 0 && -std::log2(double(p[n])) <= mu_) ++n;
    list.resize(n);
}

void Mirostat::apply(Candidates& c) {
    std::vector<Candidate>& list = c.list(true);
    if (list.empty()) softmax(list);  // throws
    if (version_ == 1)
        cut_version_1(list, c.n_vocab());
    else
        cut_version_2(list);
    const std::vector<float> p = softmax(list);
    const size_t i = draw(p, uniform(seed_, choice_ + c.draw_offset(), position_));
    pending_ = list[i].id;
    pending_surprise_ = -std::log2(double(p[i]));
    c.choose(pending_);
}

void Mirostat::accept(int32_t id) {
    ++position_;
    if (id == pending_) mu_ -= eta_ * (pending_surprise_ - tau_);
    pending_ = -1;
}

int32_t sample(const float* logits, int32_t n_vocab, const Chain& chain) {
    const auto masks = [](const auto& stage) { return stage->masks(); };
    if (std::any_of(chain.begin(), chain.end(), masks)) {
        Candidates candidates(logits, n_vocab);
        for (const auto& stage : chain)
            if (!stage->masks()) stage->apply(candidates);
        const int32_t chosen = candidates.chosen();
        const auto permits = [&](const auto& stage) { return !stage->masks() || stage->permits(chosen); };
        if (chosen >= 0 && std::all_of(chain.begin(), chain.end(), permits)) return chosen;
    }
    Candidates candidates(logits, n_vocab);
    if (std::any_of(chain.begin(), chain.end(), masks)) candidates.draw_again();
    for (const auto& stage : chain) stage->apply(candidates);
    if (candidates.chosen() < 0) throw SamplingError("the chain ended without choosing a token");
    return candidates.chosen();
}

}  // namespace lk::sampling
