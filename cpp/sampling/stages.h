// The built-in samplers. A stage changes candidates in `apply` and its own state in `accept` only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sampling/candidates.h"

namespace lk::sampling {

class Stage {
  public:
    virtual ~Stage() = default;
    virtual void apply(Candidates& c) = 0;
    // Add what `apply` does to changes that are made where the row lies; false, and nothing added, if it is no such
    // change, or would have to be made before one that is there.
    virtual bool edit(Edits& edits) { return false; }
    // How many of a row's likeliest tokens settle what `apply` does, at least most of the time; 0: it takes them all.
    virtual size_t enough() const { return 0; }
    // Whether `apply` does nothing but mask, so that asking `permits` of what the others chose may do instead.
    virtual bool masks() const { return false; }
    virtual bool permits(int32_t id) { return true; }
    virtual void accept(int32_t id) {}
    virtual void reset() {}
    virtual std::shared_ptr<Stage> clone() const = 0;
};

template <class Self>
class StageOf : public Stage {
  public:
    std::shared_ptr<Stage> clone() const override { return std::make_shared<Self>(static_cast<const Self&>(*this)); }
};

// Adds a value to the logits of some tokens.
class LogitBias : public StageOf<LogitBias> {
  public:
    explicit LogitBias(std::vector<std::pair<int32_t, float>> bias) : bias_(std::move(bias)) {}
    void apply(Candidates& c) override;
    bool edit(Edits& edits) override;

  private:
    std::vector<std::pair<int32_t, float>> bias_;
};

// Repetition, frequency and presence penalties over the last `window` tokens (below 0: all).
class Penalties : public StageOf<Penalties> {
  public:
    Penalties(int64_t window, float repeat, float frequency, float presence, int32_t spared)
        : window_(window), repeat_(repeat), frequency_(frequency), presence_(presence), spared_(spared) {}
    void apply(Candidates& c) override;
    bool edit(Edits& edits) override;
    void accept(int32_t id) override;
    void reset() override { history_.clear(), counts_.clear(); }

  private:
    int64_t window_;
    float repeat_, frequency_, presence_;
    int32_t spared_;  // a token that is never penalised (newline), or -1
    std::vector<int32_t> history_;
    std::unordered_map<int32_t, int> counts_;  // of the tokens in the window
};

constexpr size_t kMostlyEnough = 256;  // likeliest tokens that hold a nucleus, or all within a share of the best

class TopK : public StageOf<TopK> {
  public:
    TopK(int64_t k, int64_t min_keep) : k_(k), min_keep_(min_keep) {}
    void apply(Candidates& c) override;
    size_t enough() const override { return size_t(std::max(k_, min_keep_)); }

  private:
    int64_t k_, min_keep_;
};

// The samplers with one number p and a least count to keep.
class Truncation {
  public:
    Truncation(float p, int64_t min_keep) : p_(p), min_keep_(size_t(min_keep)) {}

  protected:
    float p_;
    size_t min_keep_;
};

class TopP : public StageOf<TopP>, Truncation {
  public:
    using Truncation::Truncation;
    void apply(Candidates& c) override;
    size_t enough() const override { return std::max(kMostlyEnough, min_keep_); }

  private:
    double log_total(const Candidates& c) const;
};

class MinP : public StageOf<MinP>, Truncation {
  public:
    using Truncation::Truncation;
    void apply(Candidates& c) override;
    size_t enough() const override { return std::max(kMostlyEnough, min_keep_); }
};

class TfsZ : public StageOf<TfsZ>, Truncation {
  public:
    using Truncation::Truncation;
    void apply(Candidates& c) override;
};

class TypicalP : public StageOf<TypicalP>, Truncation {
  public:
    using Truncation::Truncation;
    void apply(Candidates& c) override;
};

class Temperature : public StageOf<Temperature> {
  public:
    explicit Temperature(float temperature) : temperature_(temperature) {}
    void apply(Candidates& c) override;
    bool edit(Edits& edits) override;
    size_t enough() const override { return temperature_ > 0 ? 0 : 1; }

  private:
    float temperature_;
};

class Greedy : public StageOf<Greedy> {
  public:
    void apply(Candidates& c) override { c.choose(c.best().id); }
    size_t enough() const override { return 1; }
};

// Draws from the candidates by (seed, choice, number of tokens accepted).
class Dist : public StageOf<Dist> {
  public:
    Dist(uint64_t seed, uint64_t choice) : seed_(seed), choice_(choice) {}
    void apply(Candidates& c) override;
    void accept(int32_t id) override { ++position_; }
    void reset() override { position_ = 0; }

  private:
    uint64_t seed_, choice_, position_ = 0;
};

// Mirostat 1 and 2: steer the surprise of the chosen tokens, -log2 p, towards tau.
class Mirostat : public StageOf<Mirostat> {
  public:
    Mirostat(int version, float tau, float eta, uint64_t seed, uint64_t choice)
        : version_(version), tau_(tau), eta_(eta), mu_(2.0 * tau), seed_(seed), choice_(choice) {}
    void apply(Candidates& c) override;
    void accept(int32_t id) override;
    void reset() override { mu_ = 2.0 * tau_, position_ = 0, pending_ = -1; }

  private:
    void cut_version_1(std::vector<Candidate>& list, int32_t n_vocab) const;
    void cut_version_2(std::vector<Candidate>& list) const;

    int version_;
    double tau_, eta_, mu_;
    uint64_t seed_, choice_, position_ = 0;
    int32_t pending_ = -1;  // the token chosen last, and its surprise in bits
    double pending_surprise_ = 0;
};

using Chain = std::vector<std::shared_ptr<Stage>>;

// Run a chain on a row and return the token that it chose. Throws SamplingError. Stages that mask are left out at
// first; only if one of them does not permit what was chosen the whole chain runs, with a draw of its own.
int32_t sample(const float* logits, int32_t n_vocab, const Chain& chain);

}  // namespace lk::sampling
