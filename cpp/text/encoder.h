// From a text without special tokens to token ids: split into words, merge each, remember the words seen.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/merger.h"
#include "text/pretokenizer.h"
#include "text/vocabulary.h"

namespace lk::text {

class Encoder {
  public:
    virtual ~Encoder() = default;
    // `first`: nothing, or a special token, stands before the text.
    virtual void encode(std::string_view text, bool first, Ids& out) = 0;

  protected:
    // The tokens of a word, from memory or from `merger`.
    void word(std::string_view text, const Merger& merger, Ids& out);

  private:
    struct Hash {
        using is_transparent = void;
        size_t operator()(std::string_view text) const { return hash_bytes(text); }
    };
    std::unordered_map<std::string, Ids, Hash, std::equal_to<>> words_;
    MergeScratch scratch_;
};

class BpeEncoder : public Encoder {
  public:
    BpeEncoder(Vocabulary& vocabulary, std::string_view buffer, std::span<const Span> merges, const PreType& type);
    void encode(std::string_view text, bool first, Ids& out) override;

  private:
    bool escape_spaces_;
    Pretokenizer pretokenizer_;
    BpeMerger merger_;
    CodePoints code_points_;
    std::string escaped_;
};

class SpmEncoder : public Encoder {
  public:
    SpmEncoder(const Vocabulary& vocabulary, std::vector<float> scores, bool space_prefix, int32_t unknown);
    void encode(std::string_view text, bool first, Ids& out) override;

  private:
    SpmMerger merger_;
    bool space_prefix_, words_stand_alone_ = true;
    std::string escaped_;
};

}  // namespace lk::text
