#include "text/pattern.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace lk::text {
namespace {

constexpr std::string_view kAsciiPunctuation = "!\"#%&'()*,-./:;?@[\\]_{}";
constexpr std::string_view kAsciiSymbols = "$+<=>^`|";
constexpr std::string_view kAsciiSpace = " \t\n\v\f\r";

void add_range(CharSet& set, uint32_t low, uint32_t high) {
    for (uint32_t c = low; c <= high && c < 0x80; ++c) {
        set.folded[c] = true;
    }
    if (high >= 0x80) {
        set.ranges.emplace_back(std::max<uint32_t>(low, 0x80), high);
    }
}

void add_all(CharSet& set, std::string_view characters) {
    for (char c : characters) {
        set.folded[static_cast<uint8_t>(c)] = true;
    }
}

void add_category(CharSet& set, char category) {
    switch (category) {
        case 'N':
            add_range(set, '0', '9');
            set.folded[kFoldedClass + Number] = true;
            break;
        case 'L':
            add_range(set, 'A', 'Z');
            add_range(set, 'a', 'z');
            set.folded[kFoldedClass + Letter] = true;
            break;
        case 'P':
            add_all(set, kAsciiPunctuation);
            set.folded[kFoldedClass + Punctuation] = true;
            break;
        case 'M':
            set.folded[kFoldedClass + Mark] = true;
            break;
        case 'S':
            add_all(set, kAsciiSymbols);
            set.folded[kFoldedClass + Symbol] = true;
            break;
        default:
            throw std::invalid_argument(std::string("unknown category in a pattern: ") + category);
    }
}

void invert(CharSet& set) {
    for (bool& member : set.folded) {
        member = !member;
    }
    set.negated = !set.negated;
}

}  // namespace

bool CharSet::contains(uint8_t kind, uint32_t value, bool wide) const {
    if (!wide || value < 0x80 || kind == kFoldedSpace) {
        return folded[kind];
    }
    for (const auto& [low, high] : ranges) {
        if (low <= value && value <= high) {
            return !negated;
        }
    }
    return negated;
}

// Recursive descent over the pattern text; patterns are our own, so depth is that of their parentheses.
class PatternParser {
  public:
    PatternParser(Pattern& pattern, std::string_view source) : pattern_(pattern), source_(source) {}

    void parse() {
        alternatives();
        if (at_ != source_.size()) {
            fail("an unexpected character");
        }
        emit(Pattern::Op::Match);
    }

  private:
    using Code = std::vector<Pattern::Instruction>;

    [[noreturn]] void fail(const char* what) const {
        throw std::invalid_argument(std::string("pattern has ") + what + " at " + std::to_string(at_));
    }
    bool done() const { return at_ == source_.size(); }
    char peek() const { return done() ? '\0' : source_[at_]; }
    bool take(std::string_view expected) {
        if (source_.substr(at_, expected.size()) != expected) {
            return false;
        }
        at_ += expected.size();
        return true;
    }
    int emit(Pattern::Op op, int first = 0, int second = 0) {
        pattern_.program_.push_back({op, first, second});
        return static_cast<int>(pattern_.program_.size()) - 1;
    }
    int here() const { return static_cast<int>(pattern_.program_.size()); }

    // Cut the code from `start` out of the program, with its targets made relative.
    Code cut(int start) {
        auto& program = pattern_.program_;
        Code code(program.begin() + start, program.end());
        program.resize(start);
        for (auto& instruction : code) {
            shift(instruction, -start);
        }
        return code;
    }
    void paste(const Code& code) {
        const int base = here();
        for (auto instruction : code) {
            shift(instruction, base);
            pattern_.program_.push_back(instruction);
        }
    }
    static void shift(Pattern::Instruction& instruction, int by) {
        if (instruction.op == Pattern::Op::Split || instruction.op == Pattern::Op::Jump) {
            instruction.first += by;
            instruction.second += by;
        }
    }

    void alternatives() {
        const int start = here();
        sequence();
        while (take("|")) {
            const Code left = cut(start);
            const int split = emit(Pattern::Op::Split, start + 1, 0);
            paste(left);
            const int jump = emit(Pattern::Op::Jump);
            pattern_.program_[split].second = here();
            sequence();
            pattern_.program_[jump].first = here();
        }
    }

    void sequence() {
        while (!done() && peek() != '|' && peek() != ')') {
            const int start = here();
            atom();
            quantifier(start);
        }
    }

    void atom() {
        if (take("(?!")) {
            emit(Pattern::Op::NotNext, character_set());
            expect(")");
        } else if (take("(?:")) {
            alternatives();
            expect(")");
        } else {
            emit(Pattern::Op::Char, character_set());
        }
    }

    void expect(std::string_view text) {
        if (!take(text)) {
            fail("a missing bracket");
        }
    }

    void quantifier(int start) {
        int low = 1;
        int high = 1;  // -1: no limit
        if (take("?")) {
            low = 0;
        } else if (take("*")) {
            low = 0;
            high = -1;
        } else if (take("+")) {
            high = -1;
        } else if (take("{")) {
            low = high = number();
            if (take(",")) {
                high = number();
            }
            expect("}");
        }
        if (low != 1 || high != 1) {
            repeat(cut(start), low, high);
        }
    }

    void repeat(const Code& code, int low, int high) {
        for (int i = 0; i < low; ++i) {
            paste(code);
        }
        if (high < 0) {
            const int split = emit(Pattern::Op::Split);
            paste(code);
            emit(Pattern::Op::Jump, split);
            pattern_.program_[split].first = split + 1;
            pattern_.program_[split].second = here();
            return;
        }
        std::vector<int> splits;
        for (int i = low; i < high; ++i) {
            splits.push_back(emit(Pattern::Op::Split));
            paste(code);
        }
        for (int split : splits) {
            pattern_.program_[split].first = split + 1;
            pattern_.program_[split].second = here();
        }
    }

    int number() {
        int value = 0;
        while (peek() >= '0' && peek() <= '9') {
            value = value * 10 + (source_[at_++] - '0');
        }
        return value;
    }

    int character_set() {
        CharSet set;
        if (take("[")) {
            const bool negative = take("^");
            while (peek() != ']') {
                if (done()) {
                    fail("an open class");
                }
                class_item(set);
            }
            ++at_;
            if (negative) {
                invert(set);
            }
        } else {
            class_item(set);
        }
        pattern_.wide_ |= !set.ranges.empty();
        pattern_.sets_.push_back(set);
        return static_cast<int>(pattern_.sets_.size()) - 1;
    }

    void class_item(CharSet& set) {
        if (take("\\p{")) {
            add_category(set, source_[at_++]);
            expect("}");
        } else if (take("\\s")) {
            add_all(set, kAsciiSpace);
        } else if (take("\\S")) {
            add_all(set, kAsciiSpace);
            invert(set);
        } else if (take("\\d")) {
            add_range(set, '0', '9');
        } else {
            const uint32_t low = code_point();
            const bool range = peek() == '-' && at_ + 1 < source_.size() && source_[at_ + 1] != ']';
            at_ += range;
            add_range(set, low, range ? code_point() : low);
        }
    }

    uint32_t code_point() {
        if (take("\\x{")) {
            const size_t end = source_.find('}', at_);
            const std::string digits(source_.substr(at_, end - at_));
            at_ = end + 1;
            return static_cast<uint32_t>(std::stoul(digits, nullptr, 16));
        }
        if (take("\\r")) return '\r';
        if (take("\\n")) return '\n';
        if (take("\\t")) return '\t';
        take("\\");
        if (done()) {
            fail("an early end");
        }
        return static_cast<uint8_t>(source_[at_++]);
    }

    Pattern& pattern_;
    std::string_view source_;
    size_t at_ = 0;
};

Pattern::Pattern(std::string_view source) {
    PatternParser(*this, source).parse();
    if (sets_.size() > 32) {
        throw std::invalid_argument("a pattern has more than 32 character sets");
    }
    masks_.push_back(0);  // the end of the text
    kind_symbol_.fill(-1);
    states_ = {{}, {0}};
    state_of_ = {{{}, 0}, {{0}, 1}};
    steps_.resize(2);
}

uint32_t Pattern::mask_of(uint8_t kind, uint32_t value) const {
    uint32_t mask = 0;
    for (size_t i = 0; i < sets_.size(); ++i) {
        mask |= static_cast<uint32_t>(sets_[i].contains(kind, value, wide_)) << i;
    }
    return mask;
}

int Pattern::symbol_of_mask(uint32_t mask) {
    const auto [place, added] = symbol_of_.try_emplace(mask, static_cast<int>(masks_.size()));
    if (added) {
        masks_.push_back(mask);
    }
    return place->second;
}

int Pattern::symbol(uint8_t kind, uint32_t value) {
    if (wide_ && value >= 0x80 && kind != kFoldedSpace) {
        return symbol_of_mask(mask_of(kind, value));
    }
    if (kind_symbol_[kind] < 0) {
        kind_symbol_[kind] = symbol_of_mask(mask_of(kind, kind));
    }
    return kind_symbol_[kind];
}

// Follow what consumes nothing, in order of priority; true when a match was reached, which cuts everything after.
bool Pattern::close(int pc, int symbol, std::vector<char>& seen, Threads& chars) const {
    std::vector<int> stack{pc};
    while (!stack.empty()) {
        const int top = stack.back();
        stack.pop_back();
        if (seen[top]) {
            continue;
        }
        seen[top] = 1;
        const Instruction& instruction = program_[top];
        switch (instruction.op) {
            case Op::Match:
                return true;
            case Op::Char:
                chars.push_back(top);
                break;
            case Op::Jump:
                stack.push_back(instruction.first);
                break;
            case Op::Split:
                stack.push_back(instruction.second);
                stack.push_back(instruction.first);
                break;
            case Op::NotNext:
                if (symbol == 0 || !(masks_[symbol] >> instruction.first & 1)) {
                    stack.push_back(top + 1);
                }
                break;
        }
    }
    return false;
}

int Pattern::state_of(const Threads& threads) {
    const auto [place, added] = state_of_.try_emplace(threads, static_cast<int>(states_.size()));
    if (added) {
        states_.push_back(threads);
        steps_.emplace_back();
    }
    return place->second;
}

Pattern::Step Pattern::step(int state, int symbol) {
    std::vector<Step>& row = steps_[state];
    if (static_cast<size_t>(symbol) < row.size() && row[symbol].next >= 0) {
        return row[symbol];
    }
    std::vector<char> seen(program_.size(), 0);
    Threads chars;
    bool accepts = false;
    for (int pc : states_[state]) {
        accepts = close(pc, symbol, seen, chars);
        if (accepts) {
            break;
        }
    }
    Threads next;
    for (int pc : chars) {
        if (symbol != 0 && (masks_[symbol] >> program_[pc].first & 1)) {
            next.push_back(pc + 1);
        }
    }
    const Step made{state_of(next), accepts};
    std::vector<Step>& grown = steps_[state];  // state_of may have moved the rows
    if (grown.size() <= static_cast<size_t>(symbol)) {
        grown.resize(masks_.size(), Step{-1, false});
    }
    return grown[symbol] = made;
}

size_t Pattern::match(const CodePoints& text, size_t start, size_t end) {
    size_t found = start;
    int state = 1;
    for (size_t at = start;; ++at) {
        const int next = at < end ? symbol(text.kinds[at], text.values[at]) : 0;
        const Step taken = step(state, next);
        if (taken.accepts) {
            found = at;
        }
        if (at == end || taken.next == 0) {
            return found - start;
        }
        state = taken.next;
    }
}

}  // namespace lk::text
