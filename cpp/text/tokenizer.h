// A whole tokenizer: special tokens first, then words, then merges.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/merger.h"
#include "text/pretokenizer.h"
#include "text/vocabulary.h"

namespace lk::text {

// `tokenizer.ggml.token_type`.
enum class TokenType : uint8_t { Undefined, Normal, Unknown, Control, UserDefined, Unused, Byte };

// Finds the texts of special tokens in a text, longer ones first and each from left to right.
class SpecialTokens {
  public:
    struct Hit {
        size_t start;
        size_t end;  // of the token and, where it swallows white space, of that
        int32_t id;
    };
    struct Entry {
        std::string text;
        int32_t id;
        bool only_parsed;  // control and unknown tokens, found only when the caller asks for them
        bool strip_left;
        bool strip_right;
    };
    explicit SpecialTokens(std::vector<Entry> entries);
    // In the order of the text, not overlapping.
    std::vector<Hit> find(std::string_view text, bool parse) const;

  private:
    std::vector<Entry> entries_;  // longest first
    std::array<std::vector<uint32_t>, 256> by_first_byte_;
};

class Tokenizer {
  public:
    struct Options {
        bool spm = false;
        bool space_prefix = false;   // a space before every text that follows a special token or nothing
        bool escape_spaces = false;  // spaces are U+2581 in tokens
        int32_t unknown = -1;
        std::string pre;  // BPE only
    };
    // `merges` for BPE, `scores` for SPM; types hold TokenType, one per token.
    Tokenizer(std::shared_ptr<Vocabulary> vocabulary, std::vector<uint8_t> types, std::vector<float> scores,
              std::string_view merges_buffer, std::span<const Span> merges, std::vector<int32_t> strip_left,
              std::vector<int32_t> strip_right, Options options);
    ~Tokenizer();

    // Safe to call from several threads at once.
    Ids encode(std::string_view text, bool parse_special) const;
    // The bytes that a token stands for; throws std::out_of_range.
    std::string piece(int32_t id) const;
    // Cut a text into words, as byte offsets of their ends.
    std::vector<uint32_t> split(std::string_view text) const;

  private:
    struct Scratch;
    class Lease;
    void encode_text(std::string_view text, Scratch& scratch, Ids& out) const;
    void encode_spm(std::string_view text, Scratch& scratch, Ids& out) const;
    void encode_bpe(std::string_view text, Scratch& scratch, Ids& out) const;
    void encode_word(std::string_view word, Scratch& scratch, Ids& out) const;
    void find_joints();

    std::shared_ptr<Vocabulary> vocabulary_;
    std::vector<uint8_t> types_;
    Options options_;
    const PreType* pre_ = nullptr;
    std::unique_ptr<Merger> merger_;
    std::unique_ptr<SpecialTokens> specials_;
    // SPM: the bytes that some token has right before a U+2581; words can be cut before any other.
    std::array<bool, 256> joins_space_{};
    mutable std::mutex mutex_;
    mutable std::vector<std::unique_ptr<Scratch>> idle_;
};

}  // namespace lk::text
