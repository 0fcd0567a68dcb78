// From a word to tokens: merges in the order of their rank (BPE) or of the score of their result (SPM).
#pragma once

#include <cstdint>
#include <memory>
#include <queue>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/vocabulary.h"

namespace lk::text {

using Ids = std::vector<int32_t>;

// One character, or what merging made of several. Neighbours are linked by index, -1 at the ends.
struct MergeSymbol {
    uint32_t start;
    uint32_t size;  // bytes; 0 once merged into its left neighbour
    int32_t id;     // -1: no token and in no merge
    int32_t previous;
    int32_t next;
};

// A pair that may be merged. `order` is compared first, smaller first; ties go to the leftmost.
struct Candidate {
    double order;
    int32_t left;
    int32_t right;
    uint32_t size;  // of both together; another size by now means that the pair is no longer there
    int32_t result;
    bool operator<(const Candidate& other) const {
        return order != other.order ? order > other.order : left > other.left;
    }
};

// What one encoding works with, kept for the next.
struct MergeScratch {
    std::vector<MergeSymbol> symbols;
    std::vector<Candidate> queue;
};

class Merger {
  public:
    virtual ~Merger() = default;
    // Append the tokens of a word.
    virtual void encode(std::string_view word, MergeScratch& scratch, Ids& out) const = 0;

  protected:
    // Merge scratch.symbols; `find` says what a pair becomes.
    template <class Find>
    static void merge(MergeScratch& scratch, const Find& find);
};

// BPE over the bytes of a word (`raw` false: GPT-2's byte alphabet) or its UTF-8 characters (`raw` true).
class BpeMerger : public Merger {
  public:
    struct Options {
        bool raw = false;
        bool ignore_merges = false;
        bool newline_words = false;  // a word of line ends only that is a token is that token
    };
    // `merges` holds "left right" texts in the order of their rank. The vocabulary gets the halves that it lacks.
    BpeMerger(Vocabulary& vocabulary, std::string_view buffer, std::span<const Span> merges, Options options);
    void encode(std::string_view word, MergeScratch& scratch, Ids& out) const override;

  private:
    struct Merge {
        uint64_t pair = UINT64_MAX;
        int32_t rank = 0;
        int32_t result = 0;
    };
    const Merge* find(int32_t left, int32_t right) const;
    void add(int32_t left, int32_t right, int32_t rank, int32_t result);
    int32_t whole_word(std::string_view word) const;
    void emit(std::string_view word, const MergeSymbol& symbol, Ids& out) const;

    const Vocabulary& vocabulary_;
    Options options_;
    std::vector<Merge> table_;
    int32_t byte_symbol_[256];    // of the byte's character in the alphabet
    int32_t byte_fallback_[256];  // what a byte of an unknown symbol becomes, -1: nothing
};

// SPM: merges whose result is a token, by descending score; what is no token in the end falls back to bytes.
class SpmMerger : public Merger {
  public:
    SpmMerger(const Vocabulary& vocabulary, std::vector<float> scores, int32_t unknown);
    void encode(std::string_view word, MergeScratch& scratch, Ids& out) const override;

  private:
    const Vocabulary& vocabulary_;
    std::vector<float> scores_;
    int32_t byte_token_[256];
};

// GPT-2's alphabet: the character that stands for each byte, and the byte of a character, or -1.
std::string byte_character(uint8_t byte);
int byte_of_character(uint32_t code_point);

}  // namespace lk::text
