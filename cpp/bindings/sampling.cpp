// llamakit._sampling: candidates, the built-in samplers, and whole chains on many rows in one call.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>

#include "grammar/matcher.h"
#include "sampling/random.h"
#include "sampling/stages.h"
#include "sampling/work.h"

namespace py = pybind11;
using namespace lk::sampling;

void bind_automata(py::module_& m);
void bind_grammar(py::module_& m);

namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Ids = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

// Keeps the array of logits alive as long as there are candidates of it.
struct PyCandidates : Candidates {
    explicit PyCandidates(Floats logits)
        : Candidates(logits.data(), int32_t(logits.size())), owner(std::move(logits)) {}
    PyCandidates(std::vector<Candidate> top, double log_sum_exp, int32_t n_vocab)
        : Candidates(std::move(top), log_sum_exp, n_vocab) {}
    Floats owner;
};

std::vector<Candidate> paired(const Ids& ids, const Floats& logits) {
    if (ids.size() != logits.size()) throw std::invalid_argument("as many logits as ids are needed");
    std::vector<Candidate> list;
    for (py::ssize_t i = 0; i < ids.size(); ++i) list.push_back({ids.data()[i], logits.data()[i]});
    return list;
}

PyCandidates of_top(const Ids& ids, const Floats& logits, double log_sum_exp, int32_t n_vocab) {
    if (ids.size() == 0) throw std::invalid_argument("one token at least must be known");
    return PyCandidates(paired(ids, logits), log_sum_exp, n_vocab);
}

py::tuple arrays(const std::vector<Candidate>& list) {
    Ids ids(py::ssize_t(list.size()));
    Floats logits(py::ssize_t(list.size()));
    for (size_t i = 0; i < list.size(); ++i) {
        ids.mutable_data()[i] = list[i].id;
        logits.mutable_data()[i] = list[i].logit;
    }
    return py::make_tuple(ids, logits);
}

void check_ids(const PyCandidates& c, const Ids& ids) {
    for (py::ssize_t i = 0; i < ids.size(); ++i)
        if (ids.data()[i] < 0 || ids.data()[i] >= c.n_vocab())
            throw std::invalid_argument("token " + std::to_string(ids.data()[i]) + " is outside the vocabulary of " +
                                        std::to_string(c.n_vocab()));
}

void add(PyCandidates& c, const Ids& ids, const py::array_t<float, py::array::c_style | py::array::forcecast>& values) {
    if (ids.size() != values.size()) throw std::invalid_argument("as many values as ids are needed");
    check_ids(c, ids);
    for (py::ssize_t i = 0; i < ids.size(); ++i) c.add(ids.data()[i], values.data()[i]);
}

void mask(PyCandidates& c, const py::array_t<uint32_t, py::array::c_style>& bits) {
    if (bits.size() < (c.n_vocab() + 31) / 32) throw std::invalid_argument("a mask needs a bit for every token");
    c.mask(bits.data());
}

void replace(PyCandidates& c, const Ids& ids, const Floats& logits) {
    check_ids(c, ids);
    c.replace(paired(ids, logits), false);
}

py::tuple top(const PyCandidates& c, size_t k) {
    const double log_sum = c.log_sum_exp();
    const py::tuple found = arrays(c.top(k));
    return py::make_tuple(found[0], found[1], c.best().logit, log_sum);
}

// What `Likely` of llamakit/engine/request.py is made of: ids as int32, and as float64 what `number` makes of each
// logit less the log-sum-exp; and that sum.
template <class Number>
py::tuple packed(const PyCandidates& c, size_t k, Number number) {
    const double log_sum = c.log_sum_exp();
    const std::vector<Candidate> list = c.top(k);
    std::vector<int32_t> ids;
    std::vector<double> numbers;
    for (const Candidate& each : list) {
        ids.push_back(each.id);
        numbers.push_back(number(double(each.logit) - log_sum));
    }
    const auto bytes = [](const auto& from) {
        return py::bytes(reinterpret_cast<const char*>(from.data()), from.size() * sizeof(from[0]));
    };
    return py::make_tuple(bytes(ids), bytes(numbers), log_sum);
}

Edits edits_of(int32_t n_vocab, const Ids& ids, const Floats& repeats, const Floats& values, float scale,
               const py::array_t<uint32_t, py::array::c_style>& mask) {
    if (ids.size() != repeats.size() || ids.size() != values.size())
        throw std::invalid_argument("as many values as ids are needed");
    if (mask.size() != 0 && mask.size() < (n_vocab + 31) / 32)
        throw std::invalid_argument("a mask needs a bit for every token");
    Edits edits{n_vocab};
    for (py::ssize_t i = 0; i < ids.size(); ++i) edits.add(ids.data()[i], repeats.data()[i], values.data()[i]);
    edits.scale = scale;
    edits.mask.assign(mask.data(), mask.data() + mask.size());
    return edits;
}

// (ids, logits, log_sum_exp) of the k likeliest after the edits; the sum is NaN where a logit is no number.
py::tuple top_of(const Floats& row, size_t k, const Edits* edits) {
    Candidates c(row.data(), int32_t(row.size()));
    if (edits) c.edit(*edits);
    try {
        const double log_sum = c.log_sum_exp();
        const py::tuple found = arrays(c.top(k));
        return py::make_tuple(found[0], found[1], log_sum);
    } catch (const SamplingError&) {
        const py::ssize_t n = py::ssize_t(std::min<size_t>(k, size_t(row.size())));
        Ids ids(n);
        Floats logits(n);
        for (py::ssize_t i = 0; i < n; ++i) ids.mutable_data()[i] = int32_t(i), logits.mutable_data()[i] = NAN;
        return py::make_tuple(ids, logits, NAN);
    }
}

// Token ids, or what else became of a row, with a message.
enum Outcome : int32_t { kNoToken = -1, kEnd = -2, kBadLogits = -3, kDefect = -4, kRow = -5, kWaits = -6 };

// Chains on the likeliest tokens of rows that lie elsewhere: what each chose, kRow where these do not settle it.
std::vector<int32_t> sample_tops(const std::vector<PyCandidates*>& rows, const std::vector<Chain>& chains) {
    if (rows.size() != chains.size()) throw std::invalid_argument("as many chains as rows are needed");
    py::gil_scoped_release release;
    std::vector<int32_t> found(rows.size(), kRow);
    for (size_t i = 0; i < rows.size(); ++i) try {
            for (const auto& stage : chains[i]) stage->apply(*rows[i]);
            if (rows[i]->chosen() >= 0) found[i] = rows[i]->chosen();
        } catch (const std::exception&) {  // whatever is wrong, the row itself shows it again
        }
    return found;
}

// Each row with its chain. Once the grammars that this thread asks have done `most_work` in all, chains with one wait,
// and once its samplers have done `most_row_work`, so do those whose work over a whole row would begin: kWaits.
py::list sample_rows(const Floats& logits, const std::vector<int64_t>& rows, const std::vector<Chain>& chains,
                     int64_t most_work, int64_t most_row_work) {
    if (logits.ndim() != 2) throw std::invalid_argument("logits must be (n_rows, n_vocab)");
    if (rows.size() != chains.size()) throw std::invalid_argument("as many chains as rows are needed");
    for (int64_t row : rows)
        if (row < 0 || row >= logits.shape(0))
            throw std::invalid_argument("row " + std::to_string(row) + " does not exist");
    const float* data = logits.data();
    const int32_t n_vocab = int32_t(logits.shape(1));
    std::vector<std::pair<int32_t, std::string>> results(rows.size(), {kDefect, ""});
    {
        py::gil_scoped_release release;
        const auto waits = [&](const Chain& chain) {
            return lk::grammar::work_of_thread() >= most_work &&
                   std::any_of(chain.begin(), chain.end(), [](const auto& stage) { return stage->masks(); });
        };
        for (size_t i = 0; i < rows.size(); ++i) try {
                const Allowance allowance(most_row_work);
                results[i].first =
                    waits(chains[i]) ? int32_t(kWaits) : sample(data + rows[i] * n_vocab, n_vocab, chains[i]);
            } catch (const Postponed&) {
                results[i].first = kWaits;
            } catch (const SamplingEnd& end) {
                results[i] = {kEnd, end.what()};
            } catch (const LogitsError& error) {
                results[i] = {kBadLogits, error.what()};
            } catch (const SamplingError& error) {
                results[i] = {kNoToken, error.what()};
            } catch (const std::exception& error) {
                results[i].second = error.what();
            }
    }
    return py::cast(results);
}

}  // namespace

PYBIND11_MODULE(_sampling, m) {
    m.doc() = "Candidates and built-in samplers.";
    const auto error = py::register_exception<SamplingError>(m, "SamplingError", PyExc_ValueError);
    py::register_exception<SamplingEnd>(m, "SamplingEnd", error);
    py::register_exception<LogitsError>(m, "LogitsError", error);
    py::register_exception<RowNeeded>(m, "RowNeeded");
    m.attr("ROW") = int32_t(kRow);
    m.attr("WAITS") = int32_t(kWaits);
    m.attr("NO_TOKEN") = int32_t(kNoToken);
    m.attr("END") = int32_t(kEnd);
    m.attr("BAD_LOGITS") = int32_t(kBadLogits);
    py::class_<Candidates>(m, "_Candidates");
    py::class_<PyCandidates, Candidates>(m, "Candidates")
        .def(py::init<Floats>(), py::arg("logits"), "Candidates of one row of logits, (n_vocab,).")
        .def_static("of_top", &of_top, py::arg("ids"), py::arg("logits"), py::arg("log_sum_exp"), py::arg("n_vocab"),
                    "Candidates of a row that lies elsewhere: its likeliest tokens in order, and a sum over all.")
        .def_property_readonly("n_vocab", &Candidates::n_vocab)
        .def("__len__", &Candidates::size)
        .def("add", &add)
        .def("scale", &Candidates::scale)
        .def("mask", &mask)
        .def("keep_top", &Candidates::keep_top)
        .def("draw_again", &Candidates::draw_again)
        .def("top_parts", &top, "(ids, logits, max, log_sum_exp) of the k likeliest.")
        .def(
            "log_probabilities",
            [](const PyCandidates& c, size_t k) { return packed(c, k, [](double log) { return log; }); },
            "(ids, log-probabilities, log_sum_exp) of the k likeliest, the former as bytes.")
        .def(
            "probabilities",
            [](const PyCandidates& c, size_t k) { return packed(c, k, [](double log) { return std::exp(log); }); },
            "(ids, probabilities, log_sum_exp) of the k likeliest, the former as bytes.")
        .def("array", [](PyCandidates& c) { return arrays(c.list(false)); })
        .def("replace", &replace)
        .def("choose",
             [](PyCandidates& c, int32_t id) {
                 if (id < 0 || id >= c.n_vocab())
                     throw std::invalid_argument("token " + std::to_string(id) + " is outside the vocabulary");
                 c.choose(id);
             })
        .def_property_readonly("chosen", [](const PyCandidates& c) -> py::object {
            return c.chosen() < 0 ? py::object(py::none()) : py::cast(c.chosen());
        });
    py::class_<Edits>(m, "Edits")
        .def(py::init([](int32_t n_vocab) { return Edits{n_vocab}; }), py::arg("n_vocab"))
        .def(py::init(&edits_of), py::arg("n_vocab"), py::arg("ids"), py::arg("repeats"), py::arg("values"),
             py::arg("scale"), py::arg("mask"))
        .def_property_readonly("ids", [](const Edits& e) { return Ids(py::ssize_t(e.ids.size()), e.ids.data()); })
        .def_property_readonly("repeats",
                               [](const Edits& e) { return Floats(py::ssize_t(e.repeats.size()), e.repeats.data()); })
        .def_property_readonly("values",
                               [](const Edits& e) { return Floats(py::ssize_t(e.values.size()), e.values.data()); })
        .def_readonly("scale", &Edits::scale)
        .def_property_readonly(
            "mask", [](const Edits& e) { return py::array_t<uint32_t>(py::ssize_t(e.mask.size()), e.mask.data()); });
    py::class_<Stage, std::shared_ptr<Stage>>(m, "Stage")
        .def("apply", &Stage::apply)
        .def("edit", &Stage::edit)
        .def("enough", &Stage::enough)
        .def("masks", &Stage::masks)
        .def("permits", &Stage::permits)
        .def("accept", &Stage::accept)
        .def("accept_many",
             [](Stage& s, const py::array_t<int32_t, py::array::c_style | py::array::forcecast>& ids) {
                 const int32_t* first = ids.data();
                 const py::ssize_t n = ids.size();
                 const py::gil_scoped_release release;
                 for (py::ssize_t i = 0; i < n; ++i) s.accept(first[i]);
             })
        .def("reset", &Stage::reset)
        .def("clone", &Stage::clone);
    py::class_<LogitBias, Stage, std::shared_ptr<LogitBias>>(m, "LogitBias")
        .def(py::init<std::vector<std::pair<int32_t, float>>>());
    py::class_<Penalties, Stage, std::shared_ptr<Penalties>>(m, "Penalties")
        .def(py::init<int64_t, float, float, float, int32_t>());
    py::class_<TopK, Stage, std::shared_ptr<TopK>>(m, "TopK").def(py::init<int64_t, int64_t>());
    py::class_<TopP, Stage, std::shared_ptr<TopP>>(m, "TopP").def(py::init<float, int64_t>());
    py::class_<MinP, Stage, std::shared_ptr<MinP>>(m, "MinP").def(py::init<float, int64_t>());
    py::class_<TfsZ, Stage, std::shared_ptr<TfsZ>>(m, "TfsZ").def(py::init<float, int64_t>());
    py::class_<TypicalP, Stage, std::shared_ptr<TypicalP>>(m, "TypicalP").def(py::init<float, int64_t>());
    py::class_<Temperature, Stage, std::shared_ptr<Temperature>>(m, "Temperature").def(py::init<float>());
    py::class_<Greedy, Stage, std::shared_ptr<Greedy>>(m, "Greedy").def(py::init<>());
    py::class_<Dist, Stage, std::shared_ptr<Dist>>(m, "Dist").def(py::init<uint64_t, uint64_t>());
    py::class_<Mirostat, Stage, std::shared_ptr<Mirostat>>(m, "Mirostat")
        .def(py::init<int, float, float, uint64_t, uint64_t>());
    bind_grammar(m);
    bind_automata(m);
    m.def("sample_rows", &sample_rows, py::arg("logits"), py::arg("rows"), py::arg("chains"),
          py::arg("most_work") = INT64_MAX, py::arg("most_row_work") = INT64_MAX);
    m.def("grammar_work", &lk::grammar::work_of_thread, "What the grammars that this thread asked have done so far.");
    m.def("row_work", &work_of_thread, "What the samplers of this thread have done over rows and lists so far.");
    m.def("count_row_work", &count_units, py::arg("units"), "Count what samplers of this thread did elsewhere.");
    m.def("sample_tops", &sample_tops, py::arg("rows"), py::arg("chains"));
    m.def("top_of", &top_of, py::arg("row"), py::arg("k"), py::arg("edits") = py::none());
    m.def("uniform", &uniform, py::arg("seed"), py::arg("choice"), py::arg("position"));
}
