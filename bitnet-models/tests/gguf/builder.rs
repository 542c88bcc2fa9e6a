//! Writes GGUF files byte by byte, whole and damaged, without the code under test.

/// A tensor: name, dimensions with the contiguous one first, type number, data.
pub(crate) type Tensor = (String, Vec<u64>, u32, Vec<u8>);

/// A file in parts, each of which a test may damage before it is put together.
#[derive(Debug, Clone)]
pub(crate) struct Builder {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) tensor_count: Option<u64>,
    pub(crate) key_count: Option<u64>,
    /// Key, then type number and value.
    pub(crate) keys: Vec<(String, Vec<u8>)>,
    pub(crate) tensors: Vec<Tensor>,
    /// Offsets that are written instead of the right ones.
    pub(crate) offsets: Vec<(usize, u64)>,
    pub(crate) alignment: usize,
}

pub(crate) fn u32(value: u32) -> Vec<u8> {
    [4_u32.to_le_bytes(), value.to_le_bytes()].concat()
}

pub(crate) fn i32(value: i32) -> Vec<u8> {
    [5_u32.to_le_bytes(), value.to_le_bytes()].concat()
}

pub(crate) fn f32(value: f32) -> Vec<u8> {
    [6_u32.to_le_bytes(), value.to_le_bytes()].concat()
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [&8_u32.to_le_bytes()[..], &string(text)].concat()
}

pub(crate) fn array(kind: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    [
        &9_u32.to_le_bytes()[..],
        &kind.to_le_bytes(),
        &len.to_le_bytes(),
        elements,
    ]
    .concat()
}

pub(crate) fn f32s(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

impl Builder {
    /// A model of one layer: 64 wide, 128 inside, two heads, six tokens; projections all 0.5 in F32.
    pub(crate) fn new(architecture: &str) -> Self {
        let mut this = Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            key_count: None,
            keys: Vec::new(),
            tensors: Vec::new(),
            offsets: Vec::new(),
            alignment: 32,
        };
        this.set("general.architecture", text(architecture));
        for (name, value) in [
            ("context_length", 32),
            ("embedding_length", 64),
            ("block_count", 1),
            ("feed_forward_length", 128),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            this.set(&format!("{architecture}.{name}"), u32(value));
        }
        this.set(
            &format!("{architecture}.attention.layer_norm_rms_epsilon"),
            f32(1e-6),
        );
        this.set("tokenizer.ggml.model", text("gpt2"));
        let tokens: Vec<u8> = ["a", "b", "c", "d", "e", "f"]
            .into_iter()
            .flat_map(string)
            .collect();
        this.set("tokenizer.ggml.tokens", array(8, 6, &tokens));
        this.add("token_embd.weight", &[64, 6], &[0.25; 64 * 6]);
        this.add("output_norm.weight", &[64], &[1.0; 64]);
        for (name, d_in, d_out) in [
            ("attn_q", 64, 64),
            ("attn_k", 64, 32),
            ("attn_v", 64, 32),
            ("attn_output", 64, 64),
            ("ffn_gate", 64, 128),
            ("ffn_up", 64, 128),
            ("ffn_down", 128, 64),
        ] {
            let weight = vec![0.5; (d_in * d_out) as usize];
            this.add(&format!("blk.0.{name}.weight"), &[d_in, d_out], &weight);
        }
        this
    }

    /// Sets or replaces a key.
    pub(crate) fn set(&mut self, key: &str, value: Vec<u8>) -> &mut Self {
        match self.keys.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
        self
    }

    pub(crate) fn remove(&mut self, key: &str) -> &mut Self {
        self.keys.retain(|(name, _)| name != key);
        self
    }

    /// Adds an F32 tensor.
    pub(crate) fn add(&mut self, name: &str, ne: &[u64], values: &[f32]) -> &mut Self {
        self.tensors
            .push((name.to_owned(), ne.to_vec(), 0, f32s(values)));
        self
    }

    /// The tensor of a name, to be changed.
    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors
            .iter_mut()
            .find(|tensor| tensor.0 == name)
            .expect("a tensor of that name")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(
            self.tensor_count
                .unwrap_or(self.tensors.len() as u64)
                .to_le_bytes(),
        );
        bytes.extend(
            self.key_count
                .unwrap_or(self.keys.len() as u64)
                .to_le_bytes(),
        );
        for (key, value) in &self.keys {
            bytes.extend(string(key));
            bytes.extend(value);
        }
        let mut offset = 0;
        for (index, (name, ne, kind, data)) in self.tensors.iter().enumerate() {
            bytes.extend(string(name));
            bytes.extend((ne.len() as u32).to_le_bytes());
            bytes.extend(ne.iter().flat_map(|size| size.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            let wrong = self.offsets.iter().find(|(at, _)| *at == index);
            bytes.extend(
                wrong
                    .map_or(offset as u64, |(_, wrong)| *wrong)
                    .to_le_bytes(),
            );
            offset += data.len().next_multiple_of(self.alignment);
        }
        for (_, _, _, data) in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend(data);
        }
        bytes
    }

    /// Writes the file into a new folder, which lives as long as the first value.
    pub(crate) fn write(&self) -> (tempfile::TempDir, std::path::PathBuf) {
        write(&self.bytes())
    }
}

pub(crate) fn write(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).expect("a file");
    (folder, path)
}
