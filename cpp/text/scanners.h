// Hand-written splitters for the patterns that most vocabularies use, and for the rules that no pattern expresses.
#pragma once

#include <cstdint>
#include <vector>

#include "text/unicode.h"

namespace lk::text {

// Ends of pieces, in code points; a pass splits each piece [start, end) of the one before it.
using Ends = std::vector<uint32_t>;

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+   (GPT-2)
void split_gpt2(const CodePoints& text, uint32_t start, uint32_t end, Ends& ends);

// What the patterns that descend from GPT-4's differ in.
struct WordRules {
    uint32_t digits = 3;          // longest run of digits in one piece
    bool contractions = true;     // 's 't 're 've 'm 'll 'd in either case are pieces
    bool marks = false;           // marks count as letters
    bool newlines_after = true;   // line ends stay with the punctuation before them
    bool halving_spaces = false;  // white space in pieces of 512, 256, ..., 4, 2 or 1, 1
};

// (?i:'s|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+   (LLaMA 3)
void split_words(const CodePoints& text, uint32_t start, uint32_t end, const WordRules& rules, Ends& ends);

// Kimi K2: runs of Han; other letters with a character before and a contraction after; the rest as LLaMA 3.
void split_kimi(const CodePoints& text, uint32_t start, uint32_t end, Ends& ends);

// Words in the case style of o200k: X?A*B+C?|X?A+B*C?, then the rest of the pattern, where A is a letter that is no
// a-z, B a letter that is no A-Z, X = [^\r\n\p{L}\p{N}] and C a contraction.
struct CaseRules {
    uint32_t digits = 3;
    bool contractions = true;
    bool marks = false;  // marks count as letters
    bool cases = true;   // false: A and B are all letters and marks
};
void split_cases(const CodePoints& text, uint32_t start, uint32_t end, const CaseRules& rules, Ends& ends);

// Numbers in groups of three from the right. What stands before a number joins its first group: passes that
// follow split it off again, and vocabularies are tested against exactly that.
void split_digits(const CodePoints& text, uint32_t start, uint32_t end, Ends& ends);

// (?=(\d{3})+(?!\d)): a cut before every third ASCII digit, counted from the end of a run.
void split_thousands(const CodePoints& text, uint32_t start, uint32_t end, Ends& ends);

// \s+$ and [^\n]+|\n+
void split_trailing_space(const CodePoints& text, uint32_t start, uint32_t end, Ends& ends);
void split_lines(const CodePoints& text, uint32_t start, uint32_t end, Ends& ends);

}  // namespace lk::text
