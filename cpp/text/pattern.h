// A small regular-expression engine for pre-tokenizer patterns: leftmost-first as in Perl, compiled to an automaton
// that is built while it runs, so that a match costs one table step per code point and no recursion.
//
// Syntax: literals, \s \S \d \r \n \t \p{L|N|P|M|S}, \x{HEX}, classes with ranges and ^, (?:...), |, ? * + {m} {m,n},
// (?!class) after a pattern. The alphabet is the folded one of CodePoints unless the pattern names code points
// beyond ASCII; \p{S} leaves out '~', as the folding that the field's vocabularies are converted against does.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "text/unicode.h"

namespace lk::text {

// A set of code points: a bitmap over the folded alphabet, or ranges for those beyond ASCII.
struct CharSet {
    std::array<bool, 256> folded{};
    std::vector<std::pair<uint32_t, uint32_t>> ranges;
    bool negated = false;

    bool contains(uint8_t kind, uint32_t value, bool wide) const;
};

class Pattern {
  public:
    explicit Pattern(std::string_view source);  // throws std::invalid_argument

    // Length in code points of the match that starts at `start` and may look no further than `end`; 0 for none.
    size_t match(const CodePoints& text, size_t start, size_t end);

  private:
    friend class PatternParser;
    enum class Op : uint8_t { Char, Split, Jump, NotNext, Match };
    struct Instruction {
        Op op;
        int first;   // Char, NotNext: set; Split, Jump: target
        int second;  // Split: target of lower priority
    };
    struct Step {
        int next;  // -1 not yet computed, 0 dead
        bool accepts;
    };
    using Threads = std::vector<int>;

    int symbol(uint8_t kind, uint32_t value);
    int symbol_of_mask(uint32_t mask);
    uint32_t mask_of(uint8_t kind, uint32_t value) const;
    Step step(int state, int symbol);
    int state_of(const Threads& threads);
    bool close(int pc, int symbol, std::vector<char>& seen, Threads& chars) const;

    std::vector<Instruction> program_;
    std::vector<CharSet> sets_;
    bool wide_ = false;
    std::vector<uint32_t> masks_;        // symbol -> which sets contain it; symbol 0 is the end of the text
    std::map<uint32_t, int> symbol_of_;  // mask -> symbol
    std::array<int, 256> kind_symbol_{};
    std::vector<Threads> states_;  // state 0 is dead, state 1 the start
    std::map<Threads, int> state_of_;
    std::vector<std::vector<Step>> steps_;
};

}  // namespace lk::text
