package tokens

// tools weighs tool definitions: the names, types and descriptions that the
// upstream renders into the prompt. Chat wraps each in {"type","function"}, the
// Responses API and the older functions do not.
func (p *parts) tools(c *cursor) {
	if !c.enter('[') {
		c.skip()
		return
	}
	p.overhead += perTools
	for c.more(']') {
		p.tool(c, true)
	}
}

// tool weighs one definition; outer says that it may yet be the wrapper of one.
func (p *parts) tool(c *cursor, outer bool) {
	if !c.enter('{') {
		c.skip()
		return
	}
	p.overhead += perObject
	for c.more('}') {
		switch string(c.key()) {
		case "type":
			c.skip()
		case "function":
			if !outer {
				c.skip()
				continue
			}
			p.overhead -= perObject // the wrapper is not rendered
			p.tool(c, false)
		default:
			p.tree(c)
		}
	}
}

// tree weighs all names and strings of a value of any depth, without recursion.
func (p *parts) tree(c *cursor) {
	for depth := 0; ; {
		switch c.peek() {
		case 0:
			return
		case '{':
			p.overhead += perObject
			depth++
			c.i++
		case '[':
			depth++
			c.i++
		case '}', ']':
			depth--
			c.i++
		case ',', ':':
			c.i++
		case '"':
			p.string(c)
		default:
			c.scalar()
		}
		if depth <= 0 {
			return
		}
	}
}

// prompt weighs a completions prompt or an embeddings input: a string, strings,
// tokens, or arrays of tokens. Tokens are counted, not weighed.
func (p *parts) prompt(c *cursor) {
	for depth := 0; ; {
		switch c.peek() {
		case 0:
			return
		case '[', '{':
			depth++
			c.i++
		case ']', '}':
			depth--
			c.i++
		case ',', ':':
			c.i++
		case '"':
			p.string(c)
		default:
			if c.scalar(); depth > 0 {
				p.overhead++
			}
		}
		if depth <= 0 {
			return
		}
	}
}
