#include "text/scanners.h"

#include <algorithm>
#include <array>

namespace lk::text {
namespace {

enum Trait : uint8_t { kLetter = 1, kNumber = 2, kSpace = 4, kLineEnd = 8, kMark = 16 };

constexpr std::array<uint8_t, 256> make_traits() {
    std::array<uint8_t, 256> traits{};
    for (int c = 'a'; c <= 'z'; ++c) {
        traits[c] = traits[c - 'a' + 'A'] = kLetter;
    }
    for (int c = '0'; c <= '9'; ++c) {
        traits[c] = kNumber;
    }
    for (int c = '\t'; c <= '\r'; ++c) {
        traits[c] = kSpace;
    }
    traits[' '] = kSpace;
    traits['\n'] |= kLineEnd;
    traits['\r'] |= kLineEnd;
    traits[kFoldedClass + Letter] = kLetter;
    traits[kFoldedClass + Number] = kNumber;
    traits[kFoldedClass + Mark] = kMark;
    return traits;
}
constexpr std::array<uint8_t, 256> kTraits = make_traits();

// One piece of text under the eyes of a splitter. Reading past its end gives a character of no trait.
class Cursor {
  public:
    Cursor(const CodePoints& text, uint32_t start, uint32_t end, Ends& ends)
        : kinds_(text.kinds.data()), at_(start), end_(end), ends_(ends) {}

    bool done() const { return at_ == end_; }
    uint32_t at() const { return at_; }
    uint32_t end() const { return end_; }
    uint8_t kind(uint32_t place) const { return place < end_ ? kinds_[place] : 0; }
    uint8_t traits(uint32_t place) const { return place < end_ ? kTraits[kinds_[place]] : 0; }
    bool has(uint32_t place, uint8_t trait) const { return traits(place) & trait; }
    // The characters that are no letter, no number and no white space.
    bool plain(uint32_t place, uint8_t word) const { return place < end_ && !has(place, kSpace | kNumber | word); }

    uint32_t skip(uint32_t place, uint8_t trait) const {
        while (has(place, trait)) {
            ++place;
        }
        return place;
    }
    uint32_t skip_plain(uint32_t place, uint8_t word) const {
        while (plain(place, word)) {
            ++place;
        }
        return place;
    }

    // Length of 's 't 'm 'd 're 've 'll at a place, or 0.
    uint32_t contraction(uint32_t place, bool any_case) const {
        if (kind(place) != '\'') {
            return 0;
        }
        const uint8_t fold = any_case ? 0x20 : 0;
        const uint8_t first = letter(place + 1, fold);
        if (first == 's' || first == 't' || first == 'm' || first == 'd') {
            return 2;
        }
        const uint8_t second = letter(place + 2, fold);
        const bool long_form = (second == 'e' && (first == 'r' || first == 'v')) || (first == 'l' && second == 'l');
        return long_form ? 3 : 0;
    }

    void emit(uint32_t to) {
        ends_.push_back(to);
        at_ = to;
    }

    // \s+(?!\S)|\s+: all but the last character of white space that something follows.
    void emit_space(uint32_t run) { emit(run < end_ && run - at_ > 1 ? run - 1 : run); }

    // Where the white space at the cursor ends; and the end of its last \r or \n, or 0. A long run is read once.
    uint32_t space_run(uint32_t& line_end) {
        if (run_end_ <= at_) {
            run_end_ = skip(at_, kSpace);
            run_line_end_ = 0;
            for (uint32_t place = run_end_; place > at_ && !run_line_end_; --place) {
                run_line_end_ = has(place - 1, kLineEnd) ? place : 0;
            }
        }
        line_end = run_line_end_ > at_ ? run_line_end_ : 0;
        return run_end_;
    }

  private:
    uint8_t letter(uint32_t place, uint8_t fold) const {
        const uint8_t c = kind(place);
        return c >= 'A' && c <= 'Z' ? static_cast<uint8_t>(c | fold) : c;
    }

    const uint8_t* kinds_;
    uint32_t at_;
    uint32_t end_;
    Ends& ends_;
    uint32_t run_end_ = 0;
    uint32_t run_line_end_ = 0;
};

void emit_digits(Cursor& cursor, uint32_t most) {
    const uint32_t run = cursor.skip(cursor.at(), kNumber);
    while (cursor.at() < run) {
        cursor.emit(cursor.at() + std::min(run - cursor.at(), most));
    }
}

//  ?[^\s\p{L}\p{N}]+ and what may follow it; false where there is none.
bool emit_plain(Cursor& cursor, uint8_t word, bool newlines, bool slash) {
    const uint32_t first = cursor.at() + (cursor.kind(cursor.at()) == ' ');
    if (!cursor.plain(first, word)) {
        return false;
    }
    uint32_t to = cursor.skip_plain(first, word);
    while (newlines && (cursor.has(to, kLineEnd) || (slash && cursor.kind(to) == '/'))) {
        ++to;
    }
    cursor.emit(to);
    return true;
}

// \s{512}(?!\S)|...|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}
void emit_halving(Cursor& cursor, uint32_t run) {
    const uint32_t count = run - cursor.at();
    const uint32_t room = run < cursor.end() ? count - 1 : count;  // the last one before other text stands alone
    for (uint32_t size = 512; size >= 2; size /= 2) {
        if (size <= room) {
            cursor.emit(cursor.at() + size);
            return;
        }
    }
    cursor.emit(cursor.at() + 1);
}

// \s*[\r\n]+, then what the family does with other white space.
void emit_spaces(Cursor& cursor, bool halving) {
    uint32_t line_end = 0;
    const uint32_t run = cursor.space_run(line_end);
    if (line_end) {
        cursor.emit(line_end);
    } else if (halving) {
        emit_halving(cursor, run);
    } else {
        cursor.emit_space(run);
    }
}

// The ranges that count as Han in the field's K2 splitter.
bool is_han(uint32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2EBEF) || (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

// The two kinds of letters of CaseRules.
struct Cases {
    const Cursor& cursor;
    uint8_t word;
    bool split;

    bool upper(uint32_t at) const { return cursor.has(at, word) && !(split && between(at, 'a', 'z')); }
    bool lower(uint32_t at) const { return cursor.has(at, word) && !(split && between(at, 'A', 'Z')); }
    bool between(uint32_t at, char low, char high) const { return cursor.kind(at) >= low && cursor.kind(at) <= high; }

    // Where A*B+ from `first` ends; `first` for no match.
    uint32_t lower_word(uint32_t first) const {
        const uint32_t uppers = upper_word(first);
        uint32_t to = uppers;
        while (lower(to)) {
            ++to;
        }
        // Without a B after them, the A* give back up to the last one that is a B too, and B+ stops behind it.
        return to > uppers ? to : back(first, to);
    }
    // Where A+B* from `first` ends, when A*B+ did not match: there is no B left for B*.
    uint32_t upper_word(uint32_t first) const {
        while (upper(first)) {
            ++first;
        }
        return first;
    }

  private:
    uint32_t back(uint32_t first, uint32_t to) const {
        while (to > first && !lower(to - 1)) {
            --to;
        }
        return to;
    }
};

// X?A*B+|X?A+B* at the cursor; where it ends, or the cursor for no match.
uint32_t case_word(const Cursor& cursor, const CaseRules& rules) {
    const Cases cases{cursor, static_cast<uint8_t>(rules.marks ? kLetter | kMark : kLetter), rules.cases};
    const uint32_t at = cursor.at();
    const uint32_t after = at + !cursor.has(at, kLineEnd | kLetter | kNumber);  // behind X
    for (uint32_t first : {after, at}) {
        if (const uint32_t to = cases.lower_word(first); to > first) {
            return to;
        }
    }
    for (uint32_t first : {after, at}) {
        if (const uint32_t to = cases.upper_word(first); to > first) {
            return to;
        }
    }
    return at;
}

}  // namespace

void split_gpt2(const CodePoints& text, uint32_t start, uint32_t end, Ends& ends) {
    Cursor cursor(text, start, end, ends);
    while (!cursor.done()) {
        const uint32_t at = cursor.at();
        if (const uint32_t length = cursor.contraction(at, false)) {
            cursor.emit(at + length);
            continue;
        }
        const uint32_t first = at + (cursor.kind(at) == ' ');
        if (cursor.has(first, kLetter)) {
            cursor.emit(cursor.skip(first, kLetter));
        } else if (cursor.has(first, kNumber)) {
            cursor.emit(cursor.skip(first, kNumber));
        } else if (cursor.plain(first, kLetter)) {
            cursor.emit(cursor.skip_plain(first, kLetter));
        } else {
            cursor.emit_space(cursor.skip(at, kSpace));
        }
    }
}

void split_words(const CodePoints& text, uint32_t start, uint32_t end, const WordRules& rules, Ends& ends) {
    const uint8_t word = rules.marks ? kLetter | kMark : kLetter;
    Cursor cursor(text, start, end, ends);
    while (!cursor.done()) {
        const uint32_t at = cursor.at();
        if (const uint32_t length = rules.contractions ? cursor.contraction(at, true) : 0) {
            cursor.emit(at + length);
        } else if (cursor.has(at, word)) {
            cursor.emit(cursor.skip(at, word));
        } else if (cursor.has(at, kNumber)) {
            emit_digits(cursor, rules.digits);
        } else if (!cursor.has(at, kLineEnd) && cursor.has(at + 1, word)) {
            cursor.emit(cursor.skip(at + 1, word));
        } else if (!emit_plain(cursor, word, rules.newlines_after, false)) {
            emit_spaces(cursor, rules.halving_spaces);
        }
    }
}

void split_kimi(const CodePoints& text, uint32_t start, uint32_t end, Ends& ends) {
    Cursor cursor(text, start, end, ends);
    const auto han = [&](uint32_t at) { return at < end && is_han(text.values[at]); };
    const auto letter = [&](uint32_t at) { return cursor.has(at, kLetter) && !han(at); };
    while (!cursor.done()) {
        uint32_t at = cursor.at();
        if (han(at)) {
            while (han(at)) {
                ++at;
            }
            cursor.emit(at);
        } else if (letter(at) || (!cursor.has(at, kLineEnd | kLetter | kNumber) && letter(at + 1))) {
            for (++at; letter(at);) {
                ++at;
            }
            cursor.emit(at + cursor.contraction(at, true));
        } else if (cursor.has(at, kNumber)) {
            emit_digits(cursor, 3);
        } else if (!emit_plain(cursor, kLetter, true, false)) {
            emit_spaces(cursor, false);
        }
    }
}

void split_cases(const CodePoints& text, uint32_t start, uint32_t end, const CaseRules& rules, Ends& ends) {
    Cursor cursor(text, start, end, ends);
    while (!cursor.done()) {
        const uint32_t at = cursor.at();
        const uint32_t to = case_word(cursor, rules);
        if (to > at) {
            cursor.emit(to + (rules.contractions ? cursor.contraction(to, true) : 0));
        } else if (cursor.has(at, kNumber)) {
            emit_digits(cursor, rules.digits);
        } else if (!emit_plain(cursor, kLetter, true, true)) {
            emit_spaces(cursor, false);
        }
    }
}

void split_digits(const CodePoints& text, uint32_t start, uint32_t end, Ends& ends) {
    Cursor cursor(text, start, end, ends);
    for (uint32_t place = start; place < end; ++place) {
        if (!cursor.has(place, kNumber)) {
            continue;
        }
        const uint32_t run = cursor.skip(place, kNumber);
        const uint32_t remainder = (run - place) % 3;
        for (place += remainder ? remainder : 3; place <= run; place += 3) {
            cursor.emit(place);
        }
        place = run - 1;
    }
    if (!cursor.done()) {
        cursor.emit(end);
    }
}

void split_thousands(const CodePoints& text, uint32_t start, uint32_t end, Ends& ends) {
    const auto digit = [&](uint32_t at) { return at < end && text.kinds[at] >= '0' && text.kinds[at] <= '9'; };
    for (uint32_t place = start; place < end;) {
        if (!digit(place)) {
            ++place;
            continue;
        }
        uint32_t run = place;
        while (digit(run)) {
            ++run;
        }
        for (place += (run - place) % 3; place < run; place += 3) {
            if (place > start) {
                ends.push_back(place);
            }
        }
        place = run;
    }
    ends.push_back(end);
}

void split_trailing_space(const CodePoints& text, uint32_t start, uint32_t end, Ends& ends) {
    uint32_t place = end;
    while (place > start && (kTraits[text.kinds[place - 1]] & kSpace)) {
        --place;
    }
    if (place > start) {
        ends.push_back(place);
    }
    if (place < end) {
        ends.push_back(end);
    }
}

void split_lines(const CodePoints& text, uint32_t start, uint32_t end, Ends& ends) {
    for (uint32_t place = start; place < end;) {
        const bool newline = text.kinds[place] == '\n';
        while (place < end && (text.kinds[place] == '\n') == newline) {
            ++place;
        }
        ends.push_back(place);
    }
}

}  // namespace lk::text
