package tokens

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// chat is a request of about n bytes of one kind of text.
func chat(n int, sample string) Request {
	text := strings.ToValidUTF8(strings.Repeat(sample, n/len(sample)+1)[:n], "")
	content, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return Request{Messages: bytes.Join([][]byte{[]byte(`[{"role":"user","content":`), content, []byte(`}]`)}, nil)}
}

var samples = map[string]string{
	"english": "The sidecar stands beside the program and waits where the program would have failed. It costs nothing while nobody is waiting.\n",
	"code":    "func (e *Estimator) Estimate(k Key, r Request) Estimate {\n\tif x[i] != 0x1f && len(y) >= 3 {\n\t\treturn nil\n\t}\n}\n",
	"chinese": "你好，我想把阳台改成一个小书房，面积大概只有四平方米，冬天比较冷。",
	"base64":  "aGVsbG8gd29ybGQhIFRoaXMgaXMgYSBsb25nIGJhc2U2NCBzdHJpbmcu",
}

func BenchmarkEstimate(b *testing.B) {
	for _, kind := range []string{"english", "code", "chinese", "base64"} {
		for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s_%dKB", kind, size>>10), func(b *testing.B) {
				e, r := New(Config{}), chat(size, samples[kind])
				k := Key{Model: "gpt-4o", Client: "c", Session: "s"}
				b.SetBytes(int64(len(r.Messages)))
				b.ReportAllocs()
				for b.Loop() {
					e.Estimate(k, r)
				}
			})
		}
	}
}

func BenchmarkEstimate_imageOf2MB(b *testing.B) {
	url := "data:image/jpeg;base64," + strings.Repeat("QUJD", 1<<19)
	r := Request{Messages: []byte(`[{"role":"user","content":[{"type":"image_url","image_url":{"url":"` + url + `"}}]}]`)}
	e := New(Config{})
	b.SetBytes(int64(len(r.Messages)))
	b.ReportAllocs()
	for b.Loop() {
		e.Estimate(Key{Model: "gpt-4o"}, r)
	}
}
