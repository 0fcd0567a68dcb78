// One row of logits and which tokens of it are still candidates.
//
// A row starts "whole": every token is a candidate and the logits stay where the backend left them. The first change
// copies it; the first cut turns it into a short list. Ties are always broken by the lower token id.
//
// A row that lies elsewhere is whole too, though only its likeliest tokens are known, and the log-sum-exp of all. What
// these do not settle throws RowNeeded; what they do is the same, to the bit, as with the row.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace lk::sampling {

struct Candidate {
    int32_t id;
    float logit;
};

// Logits that no token can be chosen from; the message says why.
struct SamplingError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Thrown by a stage that wants the answer to end here; no error.
struct SamplingEnd : SamplingError {
    using SamplingError::SamplingError;
};

// Logits that are no numbers: the model's fault, whatever was asked for.
struct LogitsError : SamplingError {
    using SamplingError::SamplingError;
};

// The likeliest tokens of a row do not settle what a stage wants to know.
struct RowNeeded : std::runtime_error {
    RowNeeded() : std::runtime_error("the row itself is needed") {}
};

// Changes of a row that can be made where it lies, before its likeliest tokens are looked for: for each id in order,
// x > 0 ? x / repeat : x * repeat, then x + value; then all times `scale`; then only tokens whose bit is set.
struct Edits {
    int32_t n_vocab = 0;
    std::vector<int32_t> ids{};
    std::vector<float> repeats{}, values{};
    float scale = 1;
    std::vector<uint32_t> mask{};  // empty: all

    void add(int32_t id, float repeat, float value) {
        if (id < 0 || id >= n_vocab) return;
        ids.push_back(id);
        repeats.push_back(repeat);
        values.push_back(value);
    }
};

class Candidates {
  public:
    Candidates(const float* logits, int32_t n_vocab) : logits_(logits), n_vocab_(n_vocab) {}
    // Of a row that lies elsewhere: its likeliest tokens, sorted, at least one, and the log-sum-exp over all.
    Candidates(std::vector<Candidate> top, double log_sum_exp, int32_t n_vocab)
        : logits_(nullptr),
          n_vocab_(n_vocab),
          sorted_(true),
          list_(std::move(top)),
          log_sum_(log_sum_exp),
          summed_(true) {}

    int32_t n_vocab() const { return n_vocab_; }
    size_t size() const { return whole_ ? size_t(n_vocab_) : list_.size(); }
    bool whole() const { return whole_; }

    void add(int32_t id, float value);
    // Replace the logit of `id` by `change(logit)`, if it is still a candidate.
    template <class Change>
    void update(int32_t id, Change change) {
        if (float* logit = find(id)) *logit = change(*logit);
    }
    void edit(const Edits& edits);
    void scale(float factor);
    void mask(const uint32_t* bits);  // token i stays iff bit i % 32 of word i / 32 is set
    void keep_top(size_t k);
    void replace(std::vector<Candidate> list, bool sorted);

    // The list, made from the whole row if need be; sorted by falling logit if asked.
    std::vector<Candidate>& list(bool sorted);
    // The k likeliest, sorted; changes nothing.
    std::vector<Candidate> top(size_t k) const;
    // The likeliest, and the largest logit and log(sum(exp(logit))) over all candidates.
    Candidate best() const;
    double log_sum_exp() const;
    // sum(exp(logit - peak)) of a row that is here; only the beginning of it once that is more than `enough`.
    double sum_exp(float peak, double enough) const;
    // Those with at least this logit: of a whole row by rising id, else in the list's order.
    std::vector<Candidate> at_least(float logit) const;
    // The logits of a whole row, (n_vocab,).
    const float* row() const { return copy_.empty() ? logits_ : copy_.data(); }

    // What was drawn is not permitted: the next draw has random numbers of its own, or it would only ever fall where
    // the first one fell.
    void draw_again() { again_ = true; }
    uint64_t draw_offset() const { return again_ ? uint64_t(1) << 63 : 0; }

    void choose(int32_t id) { chosen_ = id; }
    int32_t chosen() const { return chosen_; }  // -1: none yet

  private:
    float* find(int32_t id);
    void note_places();
    void forget_places();  // before the list changes
    float* writable();
    bool elsewhere() const { return whole_ && logits_ == nullptr; }
    bool complete() const { return list_.size() >= size_t(n_vocab_); }  // of a row elsewhere: all of it is known

    const float* logits_;
    int32_t n_vocab_;
    bool whole_ = true, sorted_ = false, again_ = false;
    std::vector<float> copy_;      // of a whole row that was changed
    std::vector<Candidate> list_;  // when not whole; of a row elsewhere what is known of it
    std::vector<int32_t> places_;  // in the list, by id, once many were looked for; -1: not there
    size_t searched_ = 0;          // candidates that were looked at to find some
    double log_sum_ = 0;           // of a row elsewhere, if `summed_`
    bool summed_ = false;
    int32_t chosen_ = -1;
};

[[noreturn]] void refuse_nan();

// Falling logit, then rising id.
inline bool likelier(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// Probabilities of a list, in its order; float64 sums. Throws SamplingError where there is nothing to choose.
std::vector<float> softmax(const std::vector<Candidate>& list);

}  // namespace lk::sampling
