package wire

import "encoding/json"

// ErrorBody returns an OpenAI-shaped error object; an empty param or code is null.
func ErrorBody(message, typ, param, code string) []byte {
	type object struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	o := object{Message: message, Type: typ}
	if param != "" {
		o.Param = &param
	}
	if code != "" {
		o.Code = &code
	}
	b, err := json.Marshal(struct {
		Error object `json:"error"`
	}{o})
	if err != nil {
		panic(err) // strings always marshal
	}
	return b
}
