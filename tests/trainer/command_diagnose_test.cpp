// nibble diagnose on a small Hugging Face folder, through the program: answers and wrong input.
#include <limits>
#include <nlohmann/json.hpp>

#include "data/tokenize.hpp"
#include "model/llama.hpp"
#include "run_program.hpp"
#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "trainer/huggingface.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class CommandDiagnose : public TemporaryDirectoryTest {
 protected:
  void SetUp() override {
    TemporaryDirectoryTest::SetUp();
    write(directory_ / "text.txt", std::string(40, 'a') +
                                       "ll human beings are born free and equal in dignity and "
                                       "rights. They are endowed with reason and conscience.");
    tokenize({.inputs = {(directory_ / "text.txt").string()}, .output = (directory_ / "tokens.h5").string()},
             *make_byte_tokenizer());
    make_model("model", 320, 0.1f);
  }
  /// A folder whose first weight is `first`.
  void make_model(const std::string& name, int64_t vocabulary, float first) const {
    const ModelConfig config{.vocabulary = vocabulary,
                             .width = 32,
                             .layers = 2,
                             .heads = 2,
                             .kv_heads = 2,
                             .head_dim = 16,
                             .ffn = 64,
                             .context = 32};
    const ParameterLayout layout(config);
    const ParameterSet weights(layout, DType::f32, DType::f32, false, "weights");
    Stream stream{1};
    initialize(stream, config, layout, 5, 0.1, weights);
    *weights[0].row<float>(0) = first;
    ExportOptions options;
    options.dtype = DType::f32;
    export_huggingface(directory_ / name, config, weights, options);
  }
  Ended diagnose(const std::string& model, const std::string& options) const {
    return nibble("diagnose '" + (directory_ / model).string() + "' --data '" + (directory_ / "tokens.h5").string() +
                  "' --sequences 2 --threads 2 " + options);
  }
};

TEST_F(CommandDiagnose, TheSameBatchGivesTheSameAnswer) {
  const fs::path page = directory_ / "page.html";
  const std::string options =
      "--recipe tetrajet2 --recipe nvfp4-4over6-sr --draws 4 --sequence 32 --json --plot '" + page.string() + "'";
  const Ended first = diagnose("model", options);
  ASSERT_EQ(first.code, 0) << first.output;
  // On a busy machine lines of progress come first.
  const auto answer_in = [](const Ended& ended) { return ended.output.substr(ended.output.find('{')); };
  EXPECT_EQ(answer_in(diagnose("model", options)), answer_in(first));
  const nlohmann::json answer = nlohmann::json::parse(answer_in(first));
  EXPECT_EQ(answer["sequence"], 32);
  EXPECT_EQ(answer["recipes"][1]["recipe"], "nvfp4-4over6-sr");
  EXPECT_NE(read_file(page, ErrorKind::internal).find("tetrajet2"), std::string::npos);
  const Ended table = diagnose("model", "--recipe mxfp4-rtn --draws 1");
  EXPECT_EQ(table.code, 0) << table.output;
  expect_said(table, "2 windows of 32 tokens");
}

TEST_F(CommandDiagnose, WrongInput) {
  make_model("damaged", 320, std::numeric_limits<float>::quiet_NaN());
  make_model("narrow", 100, 0.1f);
  const struct {
    std::string model, options;
    int code;
    std::string said;
  } wrong[] = {{"nowhere", "--recipe quartet2", 4, "there is no such model"},
               {"model", "--recipe quartet3", 2, "unknown recipe"},
               {"model", "--recipe bf16 --draws 0", 2, "--draws"},
               {"model", "--recipe bf16 --sequences 0", 2, "--sequences"},
               {"model", "", 2, "--recipe"},
               {"model", "--recipe tetrajet2 --sequence 20", 2, "does not divide"},
               {"narrow", "--recipe bf16", 3, "vocabulary"},
               {"damaged", "--recipe bf16", 4, "infinite or not a number"}};
  for (const auto& [model, options, code, said] : wrong) {
    const Ended ended = diagnose(model, options);
    EXPECT_EQ(ended.code, code) << options << ended.output;
    expect_said(ended, said);
  }
}

}  // namespace
}  // namespace nibble
