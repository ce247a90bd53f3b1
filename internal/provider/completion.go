package provider

// textChoice is a choice of the old completions API.
type textChoice struct {
	Text         string  `json:"text"`
	Index        int     `json:"index"`
	Logprobs     any     `json:"logprobs"`
	FinishReason *string `json:"finish_reason"`
}

func (g *generation) completionAnswer(choices ...any) chatAnswer {
	a := g.chatAnswer("text_completion", choices...)
	a.ID, a.ServiceTier = "cmpl-"+g.id, ""
	return a
}

func (g *generation) completionBody() any {
	answer := g.completionAnswer()
	for i := range g.n {
		answer.Choices = append(answer.Choices, textChoice{Text: g.text(), Index: i, FinishReason: g.finishReason()})
	}
	answer.Usage = g.usageShape(g.used, true)
	return answer
}

func (g *generation) streamCompletion() {
	chunk := func(text string, finish *string) {
		for i := range g.n {
			g.oldChunk(g.completionAnswer(textChoice{Text: text, Index: i, FinishReason: finish}))
		}
	}
	for i := range g.words {
		if !g.step() {
			return
		}
		chunk(g.delta(i), nil)
	}
	chunk("", g.finishReason())
	g.endOld(g.completionAnswer())
}
