package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// file is an uploaded file.
type file struct {
	name, purpose string
	content       []byte
	created       int64
}

// unmetered serves everything that weighs one request, or nothing.
func (c *call) unmetered(path string) {
	if sleep(c.r.Context(), c.fault.stall) != nil {
		return
	}
	method := c.r.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http leaves the body out
	}
	switch {
	case path == "/v1/models" && method == http.MethodGet:
		c.listModels()
	case strings.HasPrefix(path, "/v1/models/") && method == http.MethodGet:
		c.getModel()
	case path == "/v1/images/generations" && method == http.MethodPost:
		c.images()
	case path == "/v1/audio/speech" && method == http.MethodPost:
		c.speech()
	case (path == "/v1/audio/transcriptions" || path == "/v1/audio/translations") && method == http.MethodPost:
		c.transcribe()
	case path == "/v1/moderations" && method == http.MethodPost:
		c.moderate()
	case path == "/v1/files" || strings.HasPrefix(path, "/v1/files/"):
		c.serveFiles(method, strings.Split(strings.Trim(strings.TrimPrefix(path, "/v1/files"), "/"), "/"))
	default:
		refuse(c.w, http.StatusNotFound, apiError{
			Message: fmt.Sprintf("Invalid URL (%s %s)", c.r.Method, path), Type: invalidRequest,
		})
	}
}

// send answers 200 with body, through the fault's shaper.
func (c *call) send(contentType string, body []byte) {
	out := newShaper(c.w, c.r, c.fault)
	c.w.Header().Set("Content-Type", contentType)
	if !c.fault.gzip {
		c.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	c.deliver(out, true, func() { _, _ = out.Write(body) })
}

func (c *call) sendObject(v any) {
	c.send("application/json", append(encode(json.MarshalIndent(v, "", "  ")), '\n'))
}

// admitRequest takes one request, of no tokens, from model's limits. It is false
// when the answer was a 429. The caller settles.
func (c *call) admitRequest(model string) (done func(), ok bool) {
	name, _ := c.model(model)
	c.entry.Model = name
	v := c.admit(name, Ask{MaxOutput: 1}) // the least that every variant understands as "no text"
	setLevels(c.w.Header(), c.cfg.Dialect, time.Now(), v.Levels)
	if !v.OK {
		c.throttle(c.w, name, v)
		return nil, false
	}
	c.entry.Accepted = true
	return func() { c.settle(name, Ask{MaxOutput: 1}, Used{}) }, true
}

func (c *call) modelObject(name string) object {
	return object{"id": name, "object": "model", "created": c.created, "owned_by": "simulated"}
}

func (c *call) listModels() {
	data := []any{}
	for _, name := range c.cfg.Models {
		data = append(data, c.modelObject(name))
	}
	c.sendObject(object{"object": "list", "data": data})
}

// getModel takes the name from the escaped path: it may hold an encoded slash.
func (c *call) getModel() {
	name, err := url.PathUnescape(strings.TrimPrefix(strings.TrimPrefix(c.r.URL.EscapedPath(), "/openai"), "/v1/models/"))
	canonical, known := c.model(name)
	if err != nil || !known {
		refuse(c.w, http.StatusNotFound, apiError{
			Message: fmt.Sprintf("The model '%s' does not exist", name), Type: invalidRequest, Param: "model", Code: "model_not_found",
		})
		return
	}
	c.sendObject(c.modelObject(canonical))
}

// decode reads a JSON body that names a model; it is false when the answer was an error.
func (c *call) decode() (model string, ok bool) {
	var body struct{ Model string }
	if err := json.Unmarshal(c.body, &body); err != nil {
		refuseParse(c.w, err)
		return "", false
	}
	return body.Model, true
}

// pixel is a PNG of one transparent pixel.
const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="

func (c *call) images() {
	model, ok := c.decode()
	if !ok {
		return
	}
	if done, ok := c.admitRequest(model); ok {
		defer done()
		c.sendObject(object{"created": time.Now().Unix(), "data": []any{object{"b64_json": pixel}}})
	}
}

// speech answers with bytes that are no text at all.
func (c *call) speech() {
	model, ok := c.decode()
	if !ok {
		return
	}
	if done, ok := c.admitRequest(model); ok {
		defer done()
		audio := make([]byte, 16<<10)
		h := c.cfg.Seed
		for i := range audio {
			h = mix(h)
			audio[i] = byte(h)
		}
		c.send("audio/mpeg", audio)
	}
}

// transcribe answers with the length of the file it was sent.
func (c *call) transcribe() {
	form, content := c.form()
	if form == nil {
		return
	}
	if done, ok := c.admitRequest(form["model"]); ok {
		defer done()
		c.sendObject(object{"text": fmt.Sprintf("a recording of %d bytes", len(content))})
	}
}

func (c *call) moderate() {
	model, ok := c.decode()
	if !ok {
		return
	}
	if done, ok := c.admitRequest(model); ok {
		defer done()
		c.sendObject(object{"id": "modr-1", "model": model, "results": []any{
			object{"flagged": false, "categories": object{}, "category_scores": object{}},
		}})
	}
}

// form reads a multipart body: its fields and its file. It answers errors itself, with a nil form.
func (c *call) form() (fields map[string]string, content []byte) {
	bad := func(why string) (map[string]string, []byte) {
		refuse(c.w, http.StatusBadRequest, apiError{Message: why, Type: invalidRequest})
		return nil, nil
	}
	kind, params, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" {
		return bad("Content-Type must be multipart/form-data.")
	}
	reader := multipart.NewReader(strings.NewReader(string(c.body)), params["boundary"])
	fields = map[string]string{}
	for {
		part, err := reader.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return bad("Could not parse multipart form.")
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return bad("Could not parse multipart form.")
		}
		if part.FileName() != "" {
			fields["filename"], content = part.FileName(), value
			continue
		}
		fields[part.FormName()] = string(value)
	}
	if fields["filename"] == "" {
		return bad("'file' is a required property")
	}
	return fields, content
}

// serveFiles keeps uploaded files in memory. rest is the path below /v1/files.
func (c *call) serveFiles(method string, rest []string) {
	id := rest[0]
	if id == "" && method == http.MethodPost {
		if form, content := c.form(); form != nil {
			f := file{name: form["filename"], purpose: form["purpose"], content: content, created: time.Now().Unix()}
			id = fmt.Sprintf("file-%d", c.entry.ID)
			c.mu.Lock()
			c.files[id] = f
			c.fileNames = append(c.fileNames, id)
			c.mu.Unlock()
			c.sendObject(f.object(id))
		}
		return
	}
	c.mu.Lock()
	f, found := c.files[id]
	data := []any{}
	for _, name := range c.fileNames {
		if f, ok := c.files[name]; ok {
			data = append(data, f.object(name))
		}
	}
	if method == http.MethodDelete {
		delete(c.files, id)
	}
	c.mu.Unlock()
	switch {
	case id == "" && method == http.MethodGet:
		c.sendObject(object{"object": "list", "data": data, "has_more": false})
	case !found:
		refuse(c.w, http.StatusNotFound, apiError{Message: "No such File object: " + id, Type: invalidRequest, Param: "id"})
	case method == http.MethodDelete:
		c.sendObject(object{"id": id, "object": "file", "deleted": true})
	case len(rest) == 2 && rest[1] == "content":
		c.send("application/octet-stream", f.content)
	default:
		c.sendObject(f.object(id))
	}
}

func (f file) object(id string) object {
	return object{
		"id": id, "object": "file", "bytes": len(f.content), "created_at": f.created,
		"filename": f.name, "purpose": f.purpose, "status": "processed",
	}
}
