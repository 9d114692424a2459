import Foundation
import PolarTokenizer
import Testing

struct ChatFormatTests {
  let chat = [
    ChatMessage(role: .user, content: "Hi"), ChatMessage(role: .assistant, content: "Hello."),
    ChatMessage(role: .user, content: "Why?"),
  ]
  let turns = """
    <|im_start|>user
    Hi<|im_end|>
    <|im_start|>assistant
    Hello.<|im_end|>
    <|im_start|>user
    Why?<|im_end|>

    """

  @Test func chatMLWithADefaultSystemPrompt() {
    let template =
      "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}..."
    let format = ChatFormat(template: template)
    #expect(format == .chatML(defaultSystemPrompt: "Be brief."))
    #expect(format.stopStrings == ["<|im_end|>"])
    let system = "<|im_start|>system\nBe brief.<|im_end|>\n"
    #expect(format.render(messages: chat, addGenerationPrompt: false) == system + turns)
    #expect(
      format.render(messages: chat, addGenerationPrompt: true) == system + turns + "<|im_start|>assistant\n")
    let own = [ChatMessage(role: .system, content: "Rhyme.")] + chat
    #expect(
      format.render(messages: own, addGenerationPrompt: false)
        == "<|im_start|>system\nRhyme.<|im_end|>\n" + turns)
  }

  @Test func chatMLWithout() {
    let format = ChatFormat(template: "{{ '<|im_start|>' + message['role'] }}")
    #expect(format == .chatML())
    #expect(format.render(messages: chat, addGenerationPrompt: false) == turns)
    #expect(format.render(messages: [], addGenerationPrompt: true) == "<|im_start|>assistant\n")
  }

  @Test func plain() {
    for template in [nil, "", "{{ '[INST]' }}"] { #expect(ChatFormat(template: template) == .plain) }
    let messages = [ChatMessage(role: .system, content: "Be kind.")] + chat
    #expect(
      ChatFormat.plain.render(messages: messages, addGenerationPrompt: true)
        == "Be kind.\n\nUser: Hi\nAssistant: Hello.\nUser: Why?\nAssistant:")
    #expect(ChatFormat.plain.stopStrings == ["\nUser:"])
  }

  @Test(arguments: [
    ("smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    ("qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
  ])
  func realTemplates(name: String, prompt: String) throws {
    guard let url = Files.shared("tokenizers/\(name)/chat_template.jinja") else { return }
    let template = try String(contentsOf: url, encoding: .utf8)
    #expect(ChatFormat(template: template) == .chatML(defaultSystemPrompt: prompt))
  }
}
