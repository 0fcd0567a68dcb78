// The sampler stage of a grammar: masks the candidates, and follows the tokens that are chosen.
#pragma once

#include <memory>

#include "grammar/matcher.h"
#include "sampling/stages.h"

namespace lk::grammar {

// Nothing is left that the grammar allows: the answer ends here.
struct GrammarEnd : sampling::SamplingEnd {
    using sampling::SamplingEnd::SamplingEnd;
};

class GrammarStage : public sampling::Stage {
  public:
    explicit GrammarStage(std::shared_ptr<Program> program) : matcher_(std::move(program)) {}

    void apply(sampling::Candidates& c) override;
    bool edit(sampling::Edits& edits) override;
    bool masks() const override { return started_; }
    bool permits(int32_t id) override;
    void accept(int32_t id) override;
    void reset() override;
    std::shared_ptr<sampling::Stage> clone() const override { return std::make_shared<GrammarStage>(*this); }
    // The prompt is over: what is accepted from now on must be in the grammar.
    void start() { started_ = true; }
    std::vector<int32_t> forced(size_t most) {
        return started_ && !lost_ ? matcher_.forced(most) : std::vector<int32_t>();
    }
    Matcher& matcher() { return matcher_; }

  private:
    std::shared_ptr<const Mask> mask(int32_t n_vocab);

    Matcher matcher_;
    bool started_ = false;
    bool lost_ = false;  // whether the text has left the grammar
};

}  // namespace lk::grammar
