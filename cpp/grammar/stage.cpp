#include "grammar/stage.h"

#include <bit>
#include <limits>

namespace lk::grammar {
namespace {

constexpr int32_t kFew = 8;  // less than one token in so many: cheaper to list them than to mask a copy of the row

}  // namespace

void GrammarStage::apply(sampling::Candidates& c) {
    if (!started_) return;
    const std::shared_ptr<const Mask> mask = this->mask(c.n_vocab());
    if (!c.whole() || mask->count > c.n_vocab() / kFew) return c.mask(mask->bits.data());
    const float* row = c.row();
    std::vector<sampling::Candidate> allowed;
    allowed.reserve(size_t(mask->count));
    bool any = false;  // that is not banned by what came before
    for (size_t word = 0; word < mask->bits.size(); ++word)
        for (uint32_t bits = mask->bits[word]; bits != 0; bits &= bits - 1) {
            const int32_t id = int32_t(word * 32) + std::countr_zero(bits);
            if (id >= c.n_vocab()) continue;
            allowed.push_back({id, row[id]});
            any |= row[id] > -std::numeric_limits<float>::infinity();
        }
    if (!any) throw GrammarEnd("every token that the grammar allows is banned");
    c.replace(std::move(allowed), false);
}

// Few tokens are listed, not masked, and samplers may tell the difference: `apply` does that, with the row.
bool GrammarStage::edit(sampling::Edits& edits) {
    if (!started_) return true;
    const std::shared_ptr<const Mask> mask = this->mask(edits.n_vocab);
    if (mask->count <= edits.n_vocab / kFew || !edits.mask.empty()) return false;
    edits.mask = mask->bits;
    return true;
}

// What may follow; throws where nothing may.
std::shared_ptr<const Mask> GrammarStage::mask(int32_t n_vocab) {
    if (lost_) throw GrammarEnd("the text has left the grammar");
    if (matcher_.ended()) throw GrammarEnd("the grammar has ended");
    std::shared_ptr<const Mask> mask;
    try {
        mask = matcher_.mask();
    } catch (const GrammarError& error) {
        throw sampling::SamplingError(error.what());
    }
    if (mask->count == 0) throw GrammarEnd("the grammar allows no token of the vocabulary here");
    if (size_t(n_vocab) > mask->bits.size() * 32)
        throw sampling::SamplingError("the model has more tokens than its vocabulary");
    return mask;
}

bool GrammarStage::permits(int32_t id) {
    try {
        return !lost_ && matcher_.permits(id);
    } catch (const GrammarError&) {
        return false;  // `apply` says why
    }
}

void GrammarStage::accept(int32_t id) {
    if (started_ && !lost_) lost_ = !matcher_.accept(id);
}

void GrammarStage::reset() {
    matcher_.rewind(matcher_.n_token());
    started_ = lost_ = false;
}

}  // namespace lk::grammar
