package budget

import (
	"fmt"
	"testing"
)

func TestLineage_Of(t *testing.T) {
	l := NewLineage(10)
	for _, c := range []struct{ client, session, parent, want string }{
		{"a", "root", "", "[root]"},
		{"a", "child", "root", "[child root]"},
		{"a", "child", "", "[child root]"}, // as it said before
		{"a", "grandchild", "child", "[grandchild child root]"},
		{"b", "grandchild", "child", "[grandchild child]"}, // another client's sessions
		{"b", "child", "", "[child]"},
		{"a", "self", "self", "[self]"},
		{"a", "root", "grandchild", "[root grandchild child]"}, // a circle
		{"a", "", "child", "[ child root grandchild]"},
		{"a", "", "", "[]"},
		{"a", "child", "other", "[child other]"}, // it moved
	} {
		if got := fmt.Sprint(l.Of(c.client, c.session, c.parent)); got != c.want {
			t.Errorf("%s's %q, child of %q: %s, want %s", c.client, c.session, c.parent, got, c.want)
		}
	}
}

func TestLineage_IsBounded(t *testing.T) {
	l := NewLineage(20)
	for i := range 100 {
		l.Of("a", fmt.Sprint(i+1), fmt.Sprint(i))
	}
	if len(l.parents) != 20 || l.recent.Len() != 20 {
		t.Errorf("%d links are kept", len(l.parents))
	}
	if got := l.Of("a", "100", ""); len(got) != maxGenerations {
		t.Errorf("%d generations: %q", len(got), got)
	}
}
