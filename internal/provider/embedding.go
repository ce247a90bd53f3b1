package provider

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"hash/fnv"
	"math"
)

// defaultDimensions keeps answers small; real models have 1,536 and more.
const defaultDimensions = 256

func (g *generation) embeddingBody() any {
	dimensions := int(g.Dimensions)
	if dimensions <= 0 || dimensions > 3072 {
		dimensions = defaultDimensions
	}
	sum := fnv.New64a()
	_, _ = sum.Write(g.Input)
	h := sum.Sum64()
	data := make([]any, g.inputs)
	for i := range data {
		vector := unitVector(mix(h+uint64(i)), dimensions)
		data[i] = object{"object": "embedding", "index": i, "embedding": vector}
		if g.EncodingFormat == "base64" { // what openai-python asks for by default
			raw := make([]byte, 0, 4*len(vector))
			for _, x := range vector {
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
			}
			data[i] = object{"object": "embedding", "index": i, "embedding": base64.StdEncoding.EncodeToString(raw)}
		}
	}
	answer := object{"object": "list", "data": data, "model": g.Model}
	used := object{"prompt_tokens": g.used.Input, "total_tokens": g.used.Input}
	switch g.fault.usage {
	case usageNone:
		return answer
	case usageZero:
		used = object{"prompt_tokens": 0, "total_tokens": 0}
	}
	answer["usage"] = json.RawMessage(encode(json.Marshal(used)))
	return answer
}

// unitVector returns a deterministic vector of length 1.
func unitVector(h uint64, n int) []float32 {
	v := make([]float32, n)
	var square float64
	for i := range v {
		h = mix(h)
		x := float64(int64(h)) / (1 << 63)
		v[i] = float32(x)
		square += x * x
	}
	for i := range v {
		v[i] /= float32(math.Sqrt(square))
	}
	return v
}
