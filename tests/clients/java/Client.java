// What a Java program does with java.net.http and its defaults, as Spring AI's JdkClientHttpConnector does it.
// Run with `java Client.java URL KEY COMMAND`; prints one JSON object a line for each answer.

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;

public class Client {
    static final String QUESTION =
        "{\"model\":\"tiny-chat\",\"messages\":[{\"role\":\"user\",\"content\":\"一个读者可以借几本书?\"}]";
    static final String LONG =
        "{\"model\":\"tiny-chat\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"从一数到很多。\"}]}";
    static final HttpClient client = HttpClient.newHttpClient();  // the defaults: every request offers h2c
    static String url, key;

    public static void main(String[] arguments) throws Exception {
        url = arguments[0];
        key = arguments[1];
        switch (arguments[2]) {
            case "calls" -> calls();
            case "keep-alive" -> keepAlive();
            case "concurrent" -> concurrent();
            case "leave" -> leave();
            case "stall" -> stall();
            default -> throw new IllegalArgumentException(arguments[2]);
        }
    }

    static void calls() throws Exception {
        show("models", client.send(get("/v1/models"), BodyHandlers.ofString()));
        show("chat", client.send(post("/v1/chat/completions", QUESTION + "}"), BodyHandlers.ofString()));
        String embed = "{\"model\":\"tiny-embed\",\"input\":[\"图书馆\",\"river\"]}";
        show("embeddings", client.send(post("/v1/embeddings", embed), BodyHandlers.ofString()));
        show("chunked", client.send(chunked("/v1/chat/completions", QUESTION + "}"), BodyHandlers.ofString()));
        show("chunked embeddings", client.send(chunked("/v1/embeddings", embed), BodyHandlers.ofString()));
        show("refused", client.send(post("/v1/chat/completions", "{\"messages\":"), BodyHandlers.ofString()));
        HttpRequest wrong =
            HttpRequest.newBuilder(URI.create(url + "/v1/models")).header("Authorization", "Bearer no").build();
        show("wrong key", client.send(wrong, BodyHandlers.ofString()));
        HttpResponse<java.util.stream.Stream<String>> lines =
            client.send(post("/v1/chat/completions", QUESTION + ",\"stream\":true}"), BodyHandlers.ofLines());
        print("stream", lines.statusCode(), lines.version().name(), String.join("\n", lines.body().toList()));
    }

    static void keepAlive() throws Exception {
        for (int i = 0; i < 6; i++) {
            HttpRequest request = i % 2 == 0 ? post("/v1/chat/completions", QUESTION + "}") : get("/v1/models");
            show("kept", client.send(request, BodyHandlers.ofString()));
        }
    }

    /** Twenty at once, half of them chunked, as a reactive program sends them. */
    static void concurrent() throws Exception {
        List<CompletableFuture<HttpResponse<String>>> answers = new java.util.ArrayList<>();
        for (int i = 0; i < 20; i++) {
            String path = "/v1/chat/completions";
            HttpRequest request = i % 2 == 0 ? post(path, QUESTION + "}") : chunked(path, QUESTION + "}");
            answers.add(client.sendAsync(request, BodyHandlers.ofString()));
        }
        for (var answer : answers) show("at once", answer.get());
    }

    /** Reads a little of a long stream, and goes. */
    static void leave() throws Exception {
        HttpResponse<InputStream> answer = opened();
        try (InputStream body = answer.body()) {
            String start = new String(body.readNBytes(40), StandardCharsets.UTF_8);
            print("left", answer.statusCode(), answer.version().name(), start);
        }
        System.in.read();  // the process stays: it is the stream that was left
    }

    /** Opens a long stream and never reads from it. */
    static void stall() throws Exception {
        HttpResponse<InputStream> answer = opened();
        print("stalled", answer.statusCode(), answer.version().name(), "");
        System.in.read();
    }

    static HttpResponse<InputStream> opened() throws Exception {
        return client.send(post("/v1/chat/completions", LONG), BodyHandlers.ofInputStream());
    }

    static HttpRequest.Builder to(String path) {
        return HttpRequest.newBuilder(URI.create(url + path))
            .timeout(Duration.ofSeconds(60))
            .header("Authorization", "Bearer " + key)
            .header("Content-Type", "application/json");
    }

    static HttpRequest get(String path) {
        return to(path).build();
    }

    static HttpRequest post(String path, String body) {
        return to(path).POST(BodyPublishers.ofString(body)).build();
    }

    /** A body of unknown length goes out with Transfer-Encoding: chunked. */
    static HttpRequest chunked(String path, String body) {
        byte[] bytes = body.getBytes(StandardCharsets.UTF_8);
        return to(path).POST(BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(bytes))).build();
    }

    static void show(String name, HttpResponse<String> answer) throws IOException {
        print(name, answer.statusCode(), answer.version().name(), answer.body());
    }

    static void print(String name, int status, String version, String body) throws IOException {
        String line = "{\"name\":" + quote(name) + ",\"status\":" + status + ",\"version\":" + quote(version)
            + ",\"body\":" + quote(body) + "}\n";
        System.out.write(line.getBytes(StandardCharsets.UTF_8));
        System.out.flush();
    }

    static String quote(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') out.append('\\').append(c);
            else if (c < ' ') out.append(String.format("\\u%04x", (int) c));
            else out.append(c);
        }
        return out.append('"').toString();
    }
}
